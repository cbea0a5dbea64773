"""tenfold export, tenfold predict, tenfold serve."""

import contextlib
import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenfold import extras
from tenfold.cli.app import (
    Cluster,
    Json,
    RunPath,
    app,
    check_choice,
    print_json,
)
from tenfold.console import log_info, plural, printable, progress
from tenfold.errors import DataError, SkippedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tenfold.console import Advance
    from tenfold.serving.resumable import Count


@app.command()
def export(
    run: RunPath,
    to: Annotated[str, typer.Option(help="onnx, keras (for Keras and TensorFlow), or a plugin's format.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write, by default RUN/model.onnx or its like.")] = None,
    int8: Annotated[str, typer.Option(help="int8 quantization: on, off, or auto (where it is faster).")] = "off",
    card: Annotated[bool, typer.Option("--card", help="Write a model card beside it.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of images to verify it on, by default the run's own, else synthetic images."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a trained run as one file that predicts without torch; it is verified against the network."""
    extras.require("train", extras.ONNX)
    check_choice("--int8", int8, ("auto", "on", "off"))
    from tenfold.api import model_file

    # which looks at the options before it opens the run
    exported = model_file.export(run, to, out, int8=int8, card=card, data=data)  # type: ignore[arg-type]
    if as_json:
        print_json(exported.to_dict())
        return
    kind = "int8" if exported.quantized else "float32"
    print(f"{exported.path}: {kind}, {exported.bytes / 1e6:.1f} MB, for {exported.runtime}")
    print(
        f"top-1 agreement with the network {exported.top1_agreement:.2%} on {exported.verified_images:,} "
        f"{exported.verified_on}, largest difference of probabilities {exported.max_abs_diff:.1g}"
    )


@app.command()
def predict(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, patterns, or - for standard input.")],
    model: Annotated[
        Path | None, typer.Option(help="A run directory or an exported file; by default the bundled model.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many predictions to print for each image.")] = 1,
    reject: Annotated[
        bool,
        typer.Option(
            "--reject", help='Answer "none of these" where it is unsure or the image is unlike the training images.'
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, .jsonl or .csv (--cluster: a folder); an interrupted call resumes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines: one object an image.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    cluster: Cluster = None,
    column: Annotated[
        str, typer.Option(help="With --cluster: the source is parquet files, with images' bytes in this column.")
    ] = "",
) -> None:
    """Classify images with the bundled model or your own."""
    if cluster:
        if len(sources) != 1 or out is None or as_json or as_csv:
            raise UsageError("--cluster takes one source, and --out DIR for parquet files, without --json and --csv")
        count = _predict_far(sources[0], column, model, out, cluster, top, reject)
    elif column:
        raise UsageError("--column goes with --cluster")
    else:
        count = _predict_here(sources, _form_name(as_json, as_csv, out), model, out, top, reject)
    if count.bad:
        raise SkippedError(f"{count.bad:,} of {plural(count.inputs, 'image')} could not be read")


def _predict_here(
    sources: list[str], name: str, model: Path | None, out: Path | None, top: int, reject: bool
) -> "Count":
    """Answer in this process, in the form of that name; count what was answered."""
    from tenfold.api.model_file import ensure_model_file
    from tenfold.serving import predict as predicting
    from tenfold.serving import resumable
    from tenfold.serving.inputs import find
    from tenfold.serving.output_formats import make_output_format
    from tenfold.serving.predictor import open_model

    classifier = open_model(ensure_model_file(model))
    has_distance = classifier.about.distance is not None
    form, inputs = make_output_format(name, classifier.classes, top, has_distance), find(sources, sys.stdin.buffer)
    answers = predicting.answer(classifier, inputs, top, reject)
    if reject and (missing := predicting.missing_threshold(classifier.about)):
        log_info(missing)
    if out is None:
        write, count = _printer(), resumable.Count()
        with _bar(sources, shown=not sys.stdout.isatty()) as advance:
            resumable.write_all(answers, form, write, count, advance)
    else:
        asked = {"form": name, "--top": top, "--reject": reject}
        request = {"model": classifier.digest, "runtime": classifier.runtime_name} | asked
        with resumable.ResumableWriter(out, request) as journal, _bar(sources, shown=True) as advance:
            count = resumable.skip_done(journal, form, inputs)
            advance(count.inputs)
            resumable.write_all(answers, form, journal.append, count, advance)
            journal.finish()
    if count.inputs == 0:
        raise DataError(f"no images in {', '.join(sources)}")
    return count


def _predict_far(
    source: str, column: str, model: Path | None, out: Path, address: str, top: int, reject: bool
) -> "Count":
    """Answer on a cluster; count what was answered."""
    extras.require("train", extras.TRAIN)
    extras.require("cluster", extras.CLUSTER)
    from tenfold.api.model_file import ensure_model_file
    from tenfold.scaling import cluster
    from tenfold.serving.model_file import read_content
    from tenfold.serving.predict import answer, missing_threshold
    from tenfold.serving.predictor import open_bytes

    file = ensure_model_file(model)
    content = read_content(file)
    classifier = open_bytes(content, str(file))
    answer(classifier, [], top, reject)  # what is wrong with the question is said here, not on the nodes
    if reject and (missing := missing_threshold(classifier.about)):
        log_info(missing)
    question = cluster.PredictJob(source, column, top, reject, classifier.digest, classifier.runtime_name)
    return cluster.predict(question, content, out, address)


def _printer() -> "Callable[[list[str]], None]":
    """What prints lines at once on standard output, also while a bar is shown elsewhere."""
    stream = sys.stdout

    def write(lines: list[str]) -> None:
        stream.write("".join(f"{line}\n" for line in lines))
        stream.flush()

    return write


@contextlib.contextmanager
def _bar(sources: list[str], shown: bool) -> "Iterator[Advance]":
    """A progress bar over images; how many there are is counted meanwhile."""
    from tenfold.serving.inputs import STDIN, find

    if not shown or not sys.stderr.isatty():
        yield lambda amount: None
        return
    with progress("predicting", None) as advance:
        if STDIN not in sources:
            count = threading.Thread(target=lambda: advance(0, total=sum(1 for _ in find(sources))), daemon=True)
            count.start()
        yield advance


def _form_name(as_json: bool, as_csv: bool, out: Path | None) -> str:
    """Which form the options ask for. Raises `UsageError` where they ask for two, or a file is to hold a table."""
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    suffix = out.suffix if out else ""
    if as_json or (suffix in (".json", ".jsonl") and not as_csv):
        return "json"
    if as_csv or suffix == ".csv":
        return "csv"
    if out is not None:
        raise UsageError(f"--out {out}: add --json or --csv, or name it .jsonl or .csv")
    return "table"


@app.command()
def serve(
    model: Annotated[
        Path | None, typer.Option(help="A run directory or an exported file; by default the bundled model.")
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="TENFOLD_HOST", help="Address to listen on; others than 127.0.0.1 need a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="TENFOLD_PORT", min=0, max=65535, help="0 takes any that is free.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="TENFOLD_TOKEN", help="What clients must send. Better as a variable: others see options."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TENFOLD_ALLOW_HOST",
            help="A further name by which clients call this machine, as behind a proxy; several with commas between.",
        ),
    ] = None,
    drain: Annotated[
        float,
        typer.Option(
            envvar="TENFOLD_DRAIN",
            min=0,
            max=3600,
            help="Seconds after SIGTERM in which it still answers, but says that it is not ready.",
        ),
    ] = 2.0,
) -> None:
    """Serve a model over HTTP, with a web page; Ctrl-C or SIGTERM ends it after all requests are answered."""
    extras.require("serve", extras.SERVE)
    from tenfold.api.model_file import ensure_model_file
    from tenfold.serving.predictor import open_model
    from tenfold.serving.serve import server

    token = os.environ.get("TENFOLD_TOKEN") if token is None else token  # an empty one is not left out
    server.check_token(token)
    with server.bind(host, port, token) as bound:
        file = ensure_model_file(model)
        name = file.stem if model is None or not model.is_dir() else model.resolve().name
        hosts = [name for text in allow_host or () for name in re.split(r"[,\s]+", text) if name]
        server.serve(open_model(file, spin=False), printable(name), bound, token, hosts, drain)
