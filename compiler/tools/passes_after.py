"""`--pass-after STAGE:PASS`: passes of other packages, or more of ours, at the end of a stage and before its verifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from xdsl.passes import PassPipeline

from compiler.pipelines import all_passes
from hw_targets.errors import UsageError


def passes_after(asked: Sequence[str], stages: Collection[str]) -> Mapping[str, str]:
    """The pipeline, as `hpcc-opt -p` takes it, that follows each stage. Raises UsageError for a stage that is none or comes
    from no passes, and for a pass that is unknown or takes other options."""
    found: dict[str, str] = {}
    for text in asked:
        stage, _, pipeline = text.partition(":")
        if stage not in stages or not pipeline:
            hint = f"STAGE:PASS with a stage of {', '.join(stages)}"
            raise UsageError("HPCC2061", f"--pass-after {text!r} names no stage and pass", hint=hint)
        _check(pipeline)
        found[stage] = f"{found[stage]},{pipeline}" if stage in found else pipeline
    return found


def _check(pipeline: str) -> None:
    try:
        PassPipeline.parse_spec(all_passes(), pipeline)
    except BaseException as error:  # xDSL's pipeline parser raises a BaseException for bad text
        if not isinstance(error, Exception) and type(error).__name__ != "ArgSpecParseError":
            raise
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        hint = "hpcc-opt --help lists the passes, those of installed packages too"
        raise UsageError("HPCC2062", f"--pass-after: bad pass {pipeline!r}: {reason}", hint=hint) from error
