"""The routes: what may be asked, and what is answered."""

import base64
import difflib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tenfold.serving.predict import Thresholds, describe, find_thresholds, to_answers
from tenfold.serving.predictor import Predictor
from tenfold.serving.serve import schema
from tenfold.serving.serve.batching import Batcher
from tenfold.serving.serve.bodies import BodyReader, images_of
from tenfold.serving.serve.encoding import SMALLEST, best_coding, compress
from tenfold.serving.serve.guard import Hosts, SecurityMiddleware
from tenfold.serving.serve.inference import (
    EXTENSIONS,
    HEADER_LENGTH,
    INPUT,
    PLATFORM,
    make_response,
    parse_request,
)
from tenfold.serving.serve.limits import Limits
from tenfold.serving.serve.refusal import RefusalError
from tenfold.serving.serve.watch import Telemetry

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
    bodies: BodyReader
    limits: Limits

    @property
    def classifier(self) -> Predictor:
        return self.batcher.classifier

    @property
    def version(self) -> str:
        """Of the model: the beginning of its file's digest."""
        return self.classifier.digest[:12]

    async def compressed(self, request: Request, response: Response) -> Response:
        """The response, compressed where the client accepts that and it pays."""
        response.headers["Vary"] = "Accept-Encoding"
        coding = best_coding(", ".join(request.headers.getlist("accept-encoding")))
        if coding and len(response.body) >= SMALLEST:
            response.body = await self.batcher.apart(compress, bytes(response.body), coding)
            response.headers["Content-Encoding"] = coding
            response.headers["Content-Length"] = str(len(response.body))
        return response


def make_app(
    classifier: Predictor, name: str, hosts: Hosts, token: str | None = None, limits: Limits | None = None
) -> SecurityMiddleware:
    """The service of one model, which it calls `name`, as an ASGI application."""
    limits, watch = limits or Limits(), Telemetry()
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
    service = Service(name, batcher, BodyReader(limits, batcher), limits)
    schema.describe_security(app, token is not None)
    _add_errors(app)
    _add_files(app)
    _add_state(app, service, watch)
    _add_predict(app, service)
    _add_protocol(app, service)
    _add_model(app, service)
    _add_heads(app)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    return SecurityMiddleware(app, batcher, limits, watch, hosts, token, paths)


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


def _add_state(app: FastAPI, service: Service, watch: Telemetry) -> None:
    about = service.classifier.about

    @app.options("/", include_in_schema=False)  # HAProxy's default check
    @app.get("/healthz", responses=schema.responses(schema.Health))
    async def health() -> Response:
        """Whether the service is well; needs no token."""
        return JSONResponse({"status": "ok"})

    @app.get("/model", responses=schema.responses(schema.Model))
    async def model() -> Response:
        """Which model answers: the classes that it knows, and when it is sure."""
        info = {"name": service.name, "size": about.size} | _thresholds(service)
        return JSONResponse(info | {"classes": list(about.classes)})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(watch.text(), media_type="text/plain; version=0.0.4")


def _thresholds(service: Service) -> dict[str, float | None]:
    """The thresholds of the model, as clients get them."""
    about = service.classifier.about
    return {"threshold": about.threshold, "distance_threshold": about.distance_threshold}


def _add_predict(app: FastAPI, service: Service) -> None:
    about = service.classifier.about
    has_threshold = bool(Thresholds(about.threshold, about.distance_threshold))

    @app.post(
        "/predict",
        responses=schema.responses(schema.Predictions, refuses=True),
        openapi_extra=schema.PREDICT_BODY,
        dependencies=[Depends(_known_parameters)],
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000, description="How many predictions to return for each image.")] = 5,
        reject: Annotated[
            bool,
            Query(
                description="Whether to give no label where the model is less sure than its threshold, or the image is "
                "farther from its training images than its distance threshold."
            ),
        ] = False,
        pixels: Annotated[bool, Query(description="Whether to send back what the model sees.")] = False,
    ) -> Response:
        """Say what is on images."""
        if reject and not has_threshold:
            raise RefusalError(400, "this model has no threshold: leave reject out")
        async with service.bodies.read(request) as body:
            kind = request.headers.get("content-type", "")
            contents = await service.batcher.apart(images_of, kind, body, service.limits)
            request.scope["state"]["images"] = len(contents)
            images = await service.batcher.decode(contents)
            outputs = await service.batcher.predict(images)
            thresholds, names = find_thresholds(about, reject), [""] * len(images)
            answers = [describe(one) for one in to_answers(names, outputs, about.classes, top, thresholds)]
            if pixels:
                answers = [answer | {"pixels": _base64(image)} for answer, image in zip(answers, images, strict=True)]
            reply = {"model": service.name, "size": images.shape[1]} | _thresholds(service) | {"predictions": answers}
            return await service.compressed(request, JSONResponse(reply))


def _base64(image: np.ndarray) -> str:
    return base64.b64encode(image.tobytes()).decode()


async def _known_parameters(request: Request) -> None:
    """Refuse query parameters that are misspelt, or given twice: nobody would notice that they do nothing."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name[:50].lower(), known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            takes = f"this path takes {', '.join(known)}" if known else "this path takes none"
            raise RefusalError(400, f'unknown query parameter "{name[:50]}": {hint}{takes}')
        if given.count(name) > 1:
            raise RefusalError(400, f"the query parameter {name} is given more than once")


def _add_protocol(app: FastAPI, service: Service) -> None:
    """The Open Inference Protocol, version 2: the server."""

    @app.get("/v2/", include_in_schema=False)  # as the protocol's own description has it
    @app.get("/v2", responses=schema.responses(schema.ServerMetadata))
    async def server() -> Response:
        """Which server this is."""
        return JSONResponse({"name": "tenfold", "version": version("tenfold"), "extensions": list(EXTENSIONS)})

    @app.get("/v2/health/live", responses=schema.responses(schema.Live))
    async def live() -> Response:
        """Whether the service runs; needs no token."""
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready", responses=schema.responses(schema.Ready))
    async def ready() -> Response:
        """Whether the service answers; needs no token."""
        return JSONResponse({"ready": True, "live": True})


def _add_model(app: FastAPI, service: Service) -> None:
    """The protocol's paths of a model, with its version and without."""

    async def is_named(name: str) -> None:
        if name != service.name:
            raise RefusalError(404, "there is no such model here: /model says what it is called")

    async def has_version(name: str, version: str) -> None:
        await is_named(name)
        if version != service.version:
            raise RefusalError(404, "there is no such version of this model: its metadata lists the versions")

    about, (metadata, ready, infer) = service.classifier.about, _model_routes(service)
    body = schema.infer_body(INPUT, service.classifier.output_names, HEADER_LENGTH, about.size)
    for path, check in (("/v2/models/{name}", is_named), ("/v2/models/{name}/versions/{version}", has_version)):
        app.get(path, responses=schema.MODEL_METADATA, dependencies=[Depends(check)])(metadata)
        app.get(f"{path}/ready", responses=schema.MODEL_READY, dependencies=[Depends(check)])(ready)
        app.post(
            f"{path}/infer",
            responses=schema.INFERENCE,
            openapi_extra=body,
            dependencies=[Depends(check), Depends(_known_parameters)],
        )(infer)


def _model_routes(service: Service) -> tuple[Any, Any, Any]:
    """What these paths answer: metadata, readiness, inference."""
    about, names = service.classifier.about, service.classifier.output_names

    async def model() -> Response:
        """What the model takes and gives, and what is known of it."""
        metadata = {"name": service.name, "versions": [service.version], "platform": PLATFORM}
        images = {"name": INPUT, "datatype": "UINT8", "shape": [-1, about.size, about.size, 3]}
        shapes = {"probabilities": [-1, len(about.classes)], "distance": [-1]}
        outputs = [{"name": name, "datatype": "FP32", "shape": shapes[name]} for name in names]
        return JSONResponse(metadata | {"inputs": [images], "outputs": outputs, "parameters": about.to_json()})

    async def model_ready() -> Response:
        """Whether the model answers."""
        return JSONResponse({"name": service.name, "ready": True})

    async def infer(request: Request) -> Response:
        """Pixels in, probabilities and the distance out (Open Inference Protocol)."""
        async with service.bodies.read(request) as body:
            header_length = request.headers.get(HEADER_LENGTH)
            asked = body, header_length, about.size, names, service.limits
            inference = await service.batcher.apart(parse_request, *asked)
            request.scope["state"]["images"] = len(inference.images)
            outputs = await service.batcher.predict(inference.images)
            model = about.classes, service.name, service.version
            content, headers = await service.batcher.apart(make_response, inference, outputs, *model)
            return await service.compressed(request, Response(content, headers=headers))

    return model, model_ready, infer


def _add_heads(app: FastAPI) -> None:
    """HEAD for all that GET answers: watchers ask so, and HTTP wants it."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            app.head(route.path, include_in_schema=False, dependencies=route.dependencies)(route.endpoint)
