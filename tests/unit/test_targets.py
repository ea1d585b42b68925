"""Target files: what is accepted, what is refused and how, and that sizing keeps to its ceilings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hw_targets import docs, resources, sizing
from hw_targets.catalogue import FOLDER, list_targets
from hw_targets.errors import InfeasibleError, InputError, UsageError
from hw_targets.load import load_any_target, load_target, parse_target
from hw_targets.schema import AcceleratorTable, json_schema
from hw_targets.target import DESIGN_RANGES, POWERS_OF_TWO, RANGES, Resources, Target, Workload

U280 = (FOLDER / "fpga-u280.toml").read_text()


def edited(*edits: tuple[str, str]) -> str:
    """The U280's file with each (old, new) replaced once; an edit that matches nothing is a mistake of the test."""
    text = U280
    for old, new in edits:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


@pytest.fixture(scope="module")
def u280() -> Target:
    return load_target("fpga-u280")


def test_the_u280_is_three_cores_of_4096_multiplications(u280: Target) -> None:
    a = u280.accelerator
    assert (a.cores, a.tokens, a.outputs, a.multipliers, a.window, a.lanes) == (3, 16, 32, 8, 32, 128)
    assert a.macs_per_cycle == 12_288
    assert u280.resources()["dsp"] == {"used": 12_288 // 2 + 5 * 128, "usable": 8_496}


def test_the_selectors_of_the_u280_cost_16_luts_each(u280: Target) -> None:
    wide = replace(u280.accelerator, selector=32)
    difference = resources.matrix_takes(wide, "dsp48e2").lut - resources.matrix_takes(u280.accelerator, "dsp48e2").lut
    assert difference == 12_288 * (64 - 16)


def test_a_dsp48e1_multiplies_once(u280: Target) -> None:
    assert resources.matrix_takes(u280.accelerator, "dsp48e1").dsp == 12_288


def test_memory_is_in_whole_blocks_of_its_width() -> None:
    # 512 bytes wide is 57 blocks of 9 bytes, each 512 words deep: one byte more than a full depth doubles it.
    assert resources.memory_takes(512, 512 * 512, "bram").bram == 57
    assert resources.memory_takes(512, 512 * 512 + 1, "bram").bram == 114
    assert resources.memory_takes(512, 512 * 4096, "uram").uram == 57


MORE = {"coo": 256, "ell": 256, "bcsr": 256, "cbr": 512, "circulant": 1024}


def test_figures_derived_from_clock_and_memory(u280: Target) -> None:
    assert u280.dram_bytes_per_cycle == pytest.approx(460e9 * 0.70 / 250e6)
    assert u280.dram_latency_cycles == 30
    assert u280.decode == {"dense": 1024, "nm": 512, "hp_mark": 512, "csr": 256, "bitmap": 512, **MORE}


def test_every_number_has_a_source_and_the_unverified_are_known(u280: Target) -> None:
    keys = [key for key, _ in u280.sources]
    assert "device.usable.dsp" in keys
    assert "memory.gbytes_per_s" in keys
    assert "clock.mhz" in u280.unverified()
    assert "device.usable.dsp" not in u280.unverified()


def test_snapshot_survives_json(u280: Target) -> None:
    assert Target.from_snapshot(json.loads(json.dumps(u280.snapshot()))) == u280


@pytest.mark.parametrize("damage", ["version", "missing", "extra"])
def test_a_damaged_snapshot_is_refused(u280: Target, damage: str) -> None:
    data = u280.snapshot()
    if damage == "version":
        data["snapshot_version"] = 99
    elif damage == "missing":
        del data["accelerator"]["lanes"]
    else:
        data["clock"]["turbo"] = 1
    with pytest.raises(InputError):
        Target.from_snapshot(data, where="manifest.json")


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("clock", "mhz", 0),
        ("clock", "mhz", float("nan")),
        ("clock", "mhz", float("inf")),
        ("clock", "mhz", "250"),
        ("clock", "mhz", True),
        ("memory", "efficiency", 1.5),
        ("memory", "burst_bytes", 0),
        ("memory", "channels", 1.0),
        ("memory", "capacity_bytes", 1 << 62),
        ("accelerator", "queue_depth", 0),
        ("accelerator", "window", 33),
        ("accelerator", "act_bytes", 1 << 40),
        ("device", "slrs", None),
        ("link", "latency_us", -1.0),
    ],
)
def test_a_snapshot_of_numbers_that_no_target_has_is_refused(u280: Target, table: str, key: str, value: object) -> None:
    data = u280.snapshot()
    data[table][key] = value
    with pytest.raises(InputError, match=rf"HPCC1311|{key}") as caught:
        Target.from_snapshot(data, where="manifest.json")
    assert key in caught.value.message


def test_a_snapshot_may_hold_what_a_file_may() -> None:
    """The ranges of the file's form, written out again for a machine that reads no TOML."""
    schema = AcceleratorTable.model_json_schema()
    form = {name: value for name, value in schema["properties"].items() if name != "design"}
    assert set(form) == set(RANGES)
    designs = schema["$defs"]["DesignTable"]["properties"]
    for name, (low, high) in DESIGN_RANGES.items():
        assert (designs[name]["minimum"], designs[name]["maximum"]) == (low, high)
    for name, (low, high) in RANGES.items():
        whole = next(choice for choice in form[name]["anyOf"] if choice["type"] == "integer")
        assert whole["minimum"] == low
        assert whole.get("maximum", 1 << 30) == high, name
    refused: set[str] = set()
    for name in form:
        try:
            AcceleratorTable.model_validate({name: 3 * RANGES[name][0] if RANGES[name][0] > 2 else 9})
        except ValidationError as error:
            if "must be a power of two" in str(error):
                refused.add(name)
    assert refused == set(POWERS_OF_TWO)


BOARDS = [name for name, kind, _ in list_targets() if kind == "fpga"]
DESIGNED = "u280 u250 u200 u50 u55c vcu118 vu13p zcu102 zcu104 kv260 pynq-z2"


def test_every_board_of_the_design_ships() -> None:
    assert set(BOARDS) >= {f"fpga-{name}" for name in DESIGNED.split()}


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_uses_most_of_its_dsps_or_says_what_binds(name: str) -> None:
    """60 % of the usable DSPs, lanes counted, or LUTs or block RAMs are what a faster array would not have had."""
    target = load_target(name)
    dsp = target.resources()["dsp"]
    bound = sizing.limit(target)
    named = {violation.resource for violation in bound.broken} if bound else set()
    assert dsp["used"] >= 0.6 * dsp["usable"] or named & {"lut", "bram", "uram"}
    if "tokens" in target.auto:
        assert any(line.startswith("bound by: the nearest faster array") for line in target.explain())


@pytest.mark.parametrize("name", BOARDS)
def test_usable_is_part_of_the_die_and_every_number_names_where_it_is_from(name: str) -> None:
    target = load_target(name)
    die = target.device.die.as_dict()
    assert all(count <= die[resource] for resource, count in target.device.usable.as_dict().items())
    assert all(source for _, source in target.sources)
    known = dict(target.sources)
    assert all(known[f"device.die.{resource}"] != "unverified" for resource in die)


def test_a_core_keeps_to_its_region() -> None:
    """The middle region of the U200 has half of the DSPs: cores are as large as that one takes."""
    target = load_target("fpga-u200")
    a = target.accelerator
    assert a.macs_per_cycle // 2 // a.cores <= 0.8 * 1320
    text = (FOLDER / "fpga-u200.toml").read_text().replace('tokens = "auto"', "tokens = 16")
    with pytest.raises(InfeasibleError, match="DSP of one core: 2,048 used, 992 more than the 1,056"):
        parse_target(text.replace('outputs = "auto"', "outputs = 32"), where="t.toml")


def test_a_target_is_frozen(u280: Target) -> None:
    with pytest.raises(FrozenInstanceError):
        u280.accelerator.lanes = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_fixed_fields_are_kept_and_the_rest_is_sized() -> None:
    target = parse_target(edited(('tokens = "auto"', "tokens = 8"), ('lanes = "auto"', "lanes = 32")), where="t.toml")
    assert (target.accelerator.tokens, target.accelerator.lanes) == (8, 32)
    assert {"tokens", "lanes"}.isdisjoint(target.auto)
    assert target.accelerator.outputs == 64


def test_what_is_sized_can_be_written_back_fixed(u280: Target) -> None:
    fixed = edited(*((f'{name} = "auto"', f"{name} = {getattr(u280.accelerator, name)}") for name in u280.auto))
    again = parse_target(fixed, where="t.toml")
    assert again.accelerator == u280.accelerator
    assert again.auto == ()
    assert again.resources() == u280.resources()


REFUSED = [
    (("queue_depth", "queue_dept"), "t.toml:55: error: unknown key 'queue_dept' in [accelerator]", "'queue_depth'"),
    (("[clock]", "[clocks]"), "t.toml:26: error: unknown key 'clocks'", "'clock'"),
    (("value = 250", "valu = 250"), "t.toml:27: error: unknown key 'valu' in [clock.mhz]", "'value'"),
    (("[decode]\n", "[decode]\nelk = {}\n"), "unknown key 'elk' in [decode]", "did you mean 'ell'"),
    (('mhz = { value = 250, source = "unverified" }', "mhz = 250"), "'mhz' in [clock] has no source", "unverified"),
    (("value = 250", 'value = "250"'), "t.toml:27", "should be a valid number"),
    (('kind = "fpga"', 'kind = "fgpa"'), "'kind'", "should be 'fpga'"),
    (('kind = "fpga"\n', ""), "key 'kind' is missing", "t.toml"),
    (("[clock]", "[clock"), "not valid TOML", "line 26"),
    (('outputs = "auto"', "outputs = 48"), "'outputs' in [accelerator]", "must divide 64"),
    (('lanes = "auto"', "lanes = 96"), "'lanes' in [accelerator]", "power of two"),
    (('lanes = "auto"', 'lanes = "many"'), "'lanes' in [accelerator]", 'or "auto"'),
    (
        ('multipliers = "auto"\nwindow = 32', "multipliers = 8\nwindow = 4"),
        "'window' in [accelerator]",
        "at least the 8 multipliers",
    ),
    (("value = 0.70", "value = 1.70"), "'efficiency' in [memory]", "at most 1"),
]


@pytest.mark.parametrize(("edit", "says", "hints"), REFUSED)
def test_a_wrong_file_is_one_line_with_its_place(edit: tuple[str, str], says: str, hints: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_target(edited(edit), where="t.toml")
    text = str(caught.value)
    assert says in text
    assert hints in text
    assert "\n" not in text
    assert caught.value.exit_status == 1


TOO_LARGE = [
    ([('tokens = "auto"', "tokens = 64"), ('outputs = "auto"', "outputs = 64")], "DSP: 49,157 used"),
    ([('act_bytes = "auto"', "act_bytes = 60_000_000")], "URAM: "),
    ([('param_bytes = "auto"', "param_bytes = 9_000_000")], "BRAM: "),
    ([('cores = "auto"', "cores = 4")], "4 cores"),
]


@pytest.mark.parametrize(("edits", "says"), TOO_LARGE)
def test_what_does_not_fit_is_infeasible_and_says_by_how_much(edits: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        parse_target(edited(*edits), where="t.toml")
    assert caught.value.exit_status == 3
    assert says in str(caught.value)
    assert str(caught.value).startswith("t.toml: error: ")


def test_an_excess_is_used_minus_allowed() -> None:
    usable = Resources(lut=1000, ff=1000, bram=100, uram=100, dsp=100)
    device = replace(load_target("fpga-u280").device, usable=usable)
    (violation,) = resources.violations(replace(usable, lut=100, ff=100, bram=0, uram=0, dsp=95), device)
    assert (violation.resource, violation.used, violation.allowed, violation.over) == ("dsp", 95, 80, 15)
    assert "95 used, 15 more than the 80 (80 % of 100 usable)" in str(violation)
    (mean,) = resources.violations(replace(usable, lut=0, ff=0, bram=80, uram=80, dsp=60), device)
    assert (mean.resource, mean.over) == ("mean", 4)


def test_an_unknown_name_suggests_and_lists() -> None:
    with pytest.raises(UsageError) as caught:
        load_target("fpga-u28")
    assert caught.value.exit_status == 2
    assert "did you mean 'fpga-u280'" in str(caught.value)
    with pytest.raises(UsageError, match="targets: .*fpga-u280"):
        load_target("nonsense")
    with pytest.raises(UsageError, match=r"no target file 'gone\.toml'"):
        load_target("gone.toml")


def test_a_users_own_file_works_like_a_name(tmp_path: Path, u280: Target) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text(edited(('name = "fpga-u280"', 'name = "my-board"')))
    assert load_target(path) == load_target(str(path)) == replace(u280, name="my-board")


def test_shipped_files_are_named_as_they_call_themselves() -> None:
    for name, kind, summary in list_targets():
        target = load_any_target(name)
        assert (target.name, target.kind, target.summary) == (name, kind, summary)


def test_listing_targets_imports_nothing_heavy() -> None:
    code = "import sys; from hw_targets.catalogue import list_targets; list_targets(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"pydantic", "numpy", "xdsl"}.isdisjoint(loaded)


def test_the_json_schema_is_strict_and_complete() -> None:
    union = json_schema()
    assert set(union["discriminator"]["mapping"]) == {"cpu", "fpga", "gpu"}
    assert union["$defs"]["CpuTargetFile"]["additionalProperties"] is False
    schema = {**union["$defs"]["TargetFile"], "$defs": union["$defs"]}
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) >= {"device", "memory", "clock", "accelerator", "decode"}


def test_the_page_is_what_the_command_writes() -> None:
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page(), "run: python -m hw_targets.docs"


@st.composite
def devices(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Edits that make the U280 another device, from a tenth of a PYNQ-Z2 to twice a U250."""
    lut = draw(st.integers(5_000, 3_500_000))
    usable = {
        "lut": lut,
        "ff": 2 * lut,
        "bram": draw(st.integers(10, 6_000)),
        "uram": draw(st.just(0) | st.integers(1, 2_600)),
        "dsp": draw(st.integers(20, 25_000)),
    }
    before = {"lut": 1163520, "ff": 2327040, "bram": 1752, "uram": 960, "dsp": 8496}
    edits = [
        (f'{name} = {{ value = {before[name]}, source = "FINN', f'{name} = {{ value = {usable[name]}, source = "FINN')
        for name in usable
    ]
    edits.append(("slrs = { value = 3", f"slrs = {{ value = {draw(st.integers(1, 4))}"))
    edits.append(("dsp48e2", draw(st.sampled_from(["dsp48e1", "dsp48e2"]))))
    edits.append(('kind = "HBM2"', f'kind = "{draw(st.sampled_from(["HBM2", "DDR4", "PS DDR4"]))}"'))
    edits.append(("value = 32,", f"value = {draw(st.integers(1, 4))},"))
    return edits


@settings(max_examples=8, deadline=None)
@given(devices())
def test_auto_sizing_keeps_every_ceiling_or_refuses(edits: list[tuple[str, str]]) -> None:
    text = U280
    for old, new in edits:
        head, mark, tail = text.rpartition(old)  # [device.usable] follows [device.die], whose numbers may be equal
        assert mark, old
        text = head + new + tail
    try:
        target = parse_target(text, where="t.toml")
    except InfeasibleError:
        return
    for name, numbers in target.resources().items():
        assert 100 * numbers["used"] <= resources.CEILINGS[name] * numbers["usable"], name
    assert target.accelerator.cores <= target.device.slrs
    assert min(target.accelerator.act_bytes, target.accelerator.weight_bytes) > 0


# ---- arrays for one pattern -----------------------------------------------------------------------------------------

DENSE = Workload("dense", "dense")
HP_75 = Workload("hp:rows=64,window=32,keep=16,fine=2:4", "hp", 2, 4, 64, 32, 16)
HP_90 = Workload("hp:rows=64,window=32,keep=12,fine=1:4", "hp", 1, 4, 64, 32, 12, reach=4)
WORKLOADS = (DENSE, HP_75, HP_90, Workload("nm:2:4", "nm", 2, 4, reach=4), Workload("nm:1:8", "nm", 1, 8, reach=8))


def test_a_pattern_that_starves_the_multipliers_gets_an_array_of_its_own(u280: Target) -> None:
    """hp:0.9 keeps 3 of 32 inputs, a window a step: fewer multipliers for more cells and more lanes."""
    target = load_target("fpga-u280", HP_90)
    own, common = target.accelerator, u280.accelerator
    assert target.workload == HP_90
    assert own.multipliers < common.multipliers
    assert own.lanes > common.lanes
    assert own.cores * own.tokens * own.outputs > common.cores * common.tokens * common.outputs
    assert sizing.cycles(own, HP_90) <= 0.8 * sizing.cycles(common, HP_90)
    resources.check(target)
    assert Target.from_snapshot(json.loads(json.dumps(target.snapshot()))) == target


@pytest.mark.parametrize(("reach", "selector"), [(0, 8), (1, 2), (3, 4), (4, 4), (8, 8), (16, 8)])
def test_selectors_are_no_wider_than_what_the_model_chooses_from(reach: int, selector: int) -> None:
    """A narrower one leaves LUTs for cells and lanes; one that a file fixes stays."""
    accelerator = load_target("fpga-u280", replace(HP_90, reach=reach)).accelerator
    assert accelerator.selector == selector
    fixed = edited(('selector = "auto"', "selector = 16"))
    assert parse_target(fixed, where="t.toml", workload=replace(HP_90, reach=reach)).accelerator.selector == 16


def test_a_snapshot_from_before_selectors_were_sized_still_loads() -> None:
    target = load_target("fpga-u280", HP_90)
    data = json.loads(json.dumps(target.snapshot()))
    del data["workload"]["reach"]
    assert Target.from_snapshot(data) == replace(target, workload=replace(HP_90, reach=0))


def test_a_pattern_that_the_common_array_suits_keeps_it(u280: Target) -> None:
    for workload in (DENSE, HP_75):
        assert load_target("fpga-u280", workload) == u280


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.pattern)
@pytest.mark.parametrize("name", BOARDS)
def test_an_array_for_a_pattern_pays_and_none_that_fits_is_faster(name: str, workload: Workload) -> None:
    common, target = load_target(name), load_target(name, workload)
    if target.workload is None:
        assert target == common
        return
    own = sizing.cycles(target.accelerator, workload)
    assert own <= sizing.WORTHWHILE * sizing.cycles(common.accelerator, workload)
    assert own == sizing.cycles(next(sizing.candidates(target)), workload)
    assert target.accelerator.lanes >= common.accelerator.lanes, "narrower models need them"
    assert not resources.broken_by(target, target.accelerator)


def test_what_a_file_fixes_is_kept_for_every_pattern(u280: Target) -> None:
    fixed = parse_target(edited(('multipliers = "auto"', "multipliers = 8")), where="t.toml", workload=HP_90)
    assert fixed.accelerator.multipliers == 8
    names = ("tokens", "outputs", "lanes", "multipliers")
    text = edited(*((f'{name} = "auto"', f"{name} = {getattr(u280.accelerator, name)}") for name in names))
    assert parse_target(text, where="t.toml", workload=HP_90).accelerator == u280.accelerator


def test_the_choice_is_explained_with_its_candidates() -> None:
    lines = load_target("fpga-u280", HP_90).explain()
    assert any(line.startswith(f"sized for {HP_90.pattern} alone") for line in lines)
    assert sum(line.startswith("chosen: ") for line in lines) == 1
    assert sum(line.startswith("candidate: ") for line in lines) == sizing.SHOWN - 1
    assert sum(line.startswith("the array for all patterns: 16 x 32 x 8 with 128 lanes") for line in lines) == 1


@pytest.mark.parametrize(("key", "value"), [("mode", "dens"), ("m", 99), ("keep", 64), ("n", "1"), ("windows", 32)])
def test_a_damaged_workload_is_refused(key: str, value: object) -> None:
    data = load_target("fpga-u280", HP_90).snapshot()
    data["workload"] = {**data["workload"], key: value}
    with pytest.raises(InputError, match="the target snapshot is damaged"):
        Target.from_snapshot(data)
