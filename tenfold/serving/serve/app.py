"""The routes: what may be asked, and what is answered."""

import base64
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tenfold.serving.predict import describe, to_answer
from tenfold.serving.runtime import Classifier
from tenfold.serving.serve import schema
from tenfold.serving.serve.batching import Batcher
from tenfold.serving.serve.bodies import INPUT, OUTPUT, Bodies, images_of, pixels_of
from tenfold.serving.serve.guard import Guard, Hosts
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError
from tenfold.serving.serve.watch import Watch

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
}
_UNKNOWN = {
    404: "there is nothing at this path: / is the page, and /docs tells what may be asked",
    405: "this path takes another method: /docs tells which",
}
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    name: str
    batcher: Batcher
    bodies: Bodies
    limits: Limits

    @property
    def classifier(self) -> Classifier:
        return self.batcher.classifier


def make_app(
    classifier: Classifier, name: str, hosts: Hosts, token: str | None = None, limits: Limits | None = None
) -> Guard:
    """The service of one model, which it calls `name`, as an ASGI application."""
    limits, watch = limits or Limits(), Watch()
    batcher = Batcher(classifier, limits, watch)
    app = FastAPI(
        title="tenfold",
        version=version("tenfold"),
        description="Says what is on small images.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    service = Service(name, batcher, Bodies(limits), limits)
    schema.describe_security(app, token is not None)
    _add_errors(app)
    _add_files(app)
    _add_state(app, service, watch)
    _add_predict(app, service)
    _add_protocol(app, service)
    _add_infer(app, service)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    return Guard(app, batcher, limits, watch, hosts, token, paths)


def _add_errors(app: FastAPI) -> None:
    """All errors in one form; none tells where this machine keeps what."""

    @app.exception_handler(RefusalError)
    async def refused(_request: Request, refusal: RefusalError) -> Response:
        return refusal.response()

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> Response:
        said = _UNKNOWN.get(error.status_code, error.detail)
        return JSONResponse({"error": said}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        wrong = error.errors()[0]
        return JSONResponse({"error": f"{wrong['loc'][-1]}: {wrong['msg']}"}, 400)

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"error": "this failed for a reason of ours, which is in the log"}, 500)


def _add_files(app: FastAPI) -> None:
    """The page, and what it is made of."""
    for path, (name, kind) in FILES.items():
        send = _sender((STATIC / name).read_bytes(), kind)
        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(send)


def _sender(content: bytes, kind: str) -> Any:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _add_state(app: FastAPI, service: Service, watch: Watch) -> None:
    about = service.classifier.about

    @app.options("/", include_in_schema=False)  # how HAProxy asks unless told otherwise
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses=schema.responses(schema.Health))
    async def health() -> Response:
        """Whether the service is well; needs no token."""
        return JSONResponse({"status": "ok"})

    @app.get("/model", responses=schema.responses(schema.Model))
    async def model() -> Response:
        """Which model answers: the classes that it knows, and when it is sure."""
        told = {"name": service.name, "size": about.size, "threshold": about.threshold}
        return JSONResponse(told | {"classes": list(about.classes)})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(watch.text(), media_type="text/plain; version=0.0.4")


def _add_predict(app: FastAPI, service: Service) -> None:
    classes, threshold = service.classifier.classes, service.classifier.about.threshold

    @app.post(
        "/predict", responses=schema.responses(schema.Predictions, refuses=True), openapi_extra=schema.PREDICT_BODY
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000, description="How many guesses to give for each image.")] = 5,
        reject: Annotated[
            bool, Query(description="Whether to give no label where the model is less sure than its threshold.")
        ] = False,
        pixels: Annotated[bool, Query(description="Whether to send back what the model sees.")] = False,
    ) -> Response:
        """Say what is on images."""
        if reject and threshold is None:
            raise RefusalError(400, "this model has no threshold: leave reject out")
        async with service.bodies.read(request) as body, service.batcher.place():
            kind = request.headers.get("content-type", "")
            contents = await service.batcher.apart(images_of, kind, body, service.limits)
            request.scope["state"]["images"] = len(contents)
            images = await service.batcher.decode(contents)
            rows = await service.batcher.predict(images)
        answers = [describe(to_answer("", row, classes, top, threshold if reject else None)) for row in rows]
        if pixels:
            answers = [told | {"pixels": _base64(image)} for told, image in zip(answers, images, strict=True)]
        told = {"model": service.name, "size": images.shape[1], "threshold": threshold, "predictions": answers}
        return JSONResponse(told)


def _base64(image: np.ndarray) -> str:
    return base64.b64encode(image.tobytes()).decode()


def _add_protocol(app: FastAPI, service: Service) -> None:
    """The Open Inference Protocol, version 2: all but inference itself."""
    about = service.classifier.about

    @app.get("/v2", responses=schema.responses(schema.ServerMetadata))
    async def server() -> Response:
        """Which server this is."""
        return JSONResponse({"name": "tenfold", "version": version("tenfold"), "extensions": []})

    @app.get("/v2/health/live", responses=schema.responses(schema.Live))
    async def live() -> Response:
        """Whether the service runs; needs no token."""
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready", responses=schema.responses(schema.Ready))
    async def ready() -> Response:
        """Whether the service answers; needs no token."""
        return JSONResponse({"ready": True})

    @app.get("/v2/models/{name}", responses=schema.responses(schema.ModelMetadata, refuses=True))
    async def model(name: str) -> Response:
        """What the model takes and gives, and what is known of it."""
        _require_name(name, service)
        told = {"name": service.name, "platform": "onnx"}
        images = {"name": INPUT, "datatype": "UINT8", "shape": [-1, about.size, about.size, 3]}
        probabilities = {"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(about.classes)]}
        return JSONResponse(told | {"inputs": [images], "outputs": [probabilities], "parameters": about.to_json()})

    @app.get("/v2/models/{name}/ready", responses=schema.responses(schema.ModelReady, refuses=True))
    async def model_ready(name: str) -> Response:
        """Whether the model answers."""
        _require_name(name, service)
        return JSONResponse({"name": service.name, "ready": True})


def _add_infer(app: FastAPI, service: Service) -> None:
    size, digest = service.classifier.about.size, service.classifier.digest

    @app.post(
        "/v2/models/{name}/infer",
        responses=schema.responses(schema.Inference, refuses=True),
        openapi_extra=schema.infer_body(INPUT, OUTPUT, size),
    )
    async def infer(request: Request, name: str) -> Response:
        """Pixels in, probabilities out (Open Inference Protocol)."""
        _require_name(name, service)
        async with service.bodies.read(request) as body, service.batcher.place():
            ident, images = await service.batcher.apart(pixels_of, body, size, service.limits)
            request.scope["state"]["images"] = len(images)
            rows = await service.batcher.predict(images)
        output = {"name": OUTPUT, "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        told = {"model_name": service.name, "model_version": digest[:12], "outputs": [output]}
        return JSONResponse(told if ident is None else told | {"id": ident})


def _require_name(name: str, service: Service) -> None:
    if name != service.name:
        raise RefusalError(404, f"there is no such model here: it is called {service.name}")
