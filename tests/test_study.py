"""The study chooses by validation accuracy, loses nothing and repeats nothing."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import study

        yield study
    for name in ("study", "study_report", "beyond_recipes", "one_graph"):
        sys.modules.pop(name, None)


CASE = "digits-vgg-20"


def made_up(run, *, test=50.0, better=None):
    """A line whose validation accuracy depends on the method alone."""
    validation = 90.0 if run.method == better else 60.0 + len(run.method) % 7
    return {
        "validation": validation + run.seed % 3 / 10, "validation_loss": 0.5, "test": test,
        "test_loss": 0.5, "flips_expected": 0.005, "flips": 0.005, "flips_vs_init": 0.4,
        "information_gain": 0.9, "latent_decay": 0.01, "steps": 10, "seconds": 1.0,
    }  # fmt: skip


def finish(study, results, part, case=CASE, **kwargs):
    done = []
    for run in study.missing(results, case, part):
        done.append(run)
        results.add(run, made_up(run, **kwargs))
    return done


def test_every_point_of_the_grid_has_the_sum_that_it_names(study):
    for words in study.GRID:
        fields = dict(field.split("=") for field in words.split(":")[1:])
        recipe = study.recipe_of(CASE, words, 3)
        rates = recipe.learning_rates(1077)
        assert max(rates) == float(fields["learning_rate"])
        assert sum(rates) * recipe.latent_decay == pytest.approx(float(fields["decay_sum"]))
        assert (recipe.seed, recipe.epochs, recipe.dataset) == (3, 20, "digits")


def test_cases_know_the_size_of_their_data(study):
    from hbnn_larq.training import data

    for name, count in study.IMAGES.items():
        assert len(data.load(name).train) == count


def test_every_run_of_the_plan_is_a_recipe(study, tmp_path):
    results = study.Results(tmp_path / "r.jsonl")
    runs = {
        (case, run.case, run.method)
        for part, case in study.PLAN
        for run in study.PARTS[part](case, results)
    }
    for case, where, method in sorted(runs):
        assert study.recipe_of(where, method, 0).name == case


@pytest.mark.parametrize("test", [0.0, 100.0])
def test_the_choice_reads_validation_only(study, tmp_path, test):
    better = study.GRID[9]
    results = study.Results(tmp_path / "r.jsonl")
    finish(study, results, "lead", better=better, test=test)
    assert results.best_of_grid(CASE) == better


def test_published_rows_use_seeds_that_chose_nothing(study, tmp_path):
    results = study.Results(tmp_path / "r.jsonl")
    runs = finish(study, results, "lead", better=study.GRID[9])
    published = {run.seed for run in runs if run.method == study.GEODESIC}
    assert published == set(study.SEEDS)
    assert not published & set(study.CHOOSING)
    tuned = [run.seed for run in runs if run.method == study.GRID[9]]
    assert sorted(tuned) == sorted([*study.CHOOSING, *study.SEEDS])
    assert len(set(run.key for run in runs)) == len(runs)


def rates_and_sums(study, grid):
    points = [study.point_of(words) for words in grid]
    return sorted({rate for rate, _ in points}), sorted({total for _, total in points})


@pytest.mark.parametrize(
    "best, rates, sums",
    [
        ((0.1, 0.3), [], []),
        ((0.3, 1.0), [1.0], []),
        ((0.01, 3.0), [0.003], [10.0]),
        ((0.03, 0.1), [], [0.03]),
    ],
)
def test_a_grid_grows_where_its_best_point_lies_at_the_edge(study, tmp_path, best, rates, sums):
    (better,) = study.grid_of(study.PLAIN, best[:1], best[1:])
    results = study.Results(tmp_path / "r.jsonl")
    assert results.grid(CASE) == study.GRID
    runs = finish(study, results, "lead", better=better)
    grown = rates_and_sums(study, results.grid(CASE))
    assert grown == (
        sorted([*study.LEARNING_RATES, *rates]), sorted([*study.DECAY_SUMS, *sums])
    )  # fmt: skip
    tried = {run.method for run in runs if run.seed == study.CHOOSING[0]}
    assert tried >= set(results.grid(CASE))
    assert results.best_of_grid(CASE) == better


def test_a_point_beyond_the_first_grid_can_be_the_best(study, tmp_path):
    results = study.Results(tmp_path / "r.jsonl")
    (edge,) = study.grid_of(study.PLAIN, (0.3,), (1.0,))
    (beyond,) = study.grid_of(study.PLAIN, (1.0,), (1.0,))
    for run in study.missing(results, CASE, "lead"):
        line = made_up(run, better=edge)
        results.add(run, {**line, "validation": 95.0} if run.method == beyond else line)
    assert results.best_of_grid(CASE) == beyond
    assert {s for c, m, s in results.lines if m == beyond} == {*study.CHOOSING, *study.SEEDS}


def test_a_grid_grows_once_more_if_its_edge_is_chosen_in_the_end(study, tmp_path):
    results = study.Results(tmp_path / "r.jsonl")
    (first,) = study.grid_of(study.PLAIN, (0.1,), (1.0,))
    (edge,) = study.grid_of(study.PLAIN, (0.3,), (1.0,))
    runs = []
    for run in study.missing(results, CASE, "lead"):
        line = made_up(run, better=first)
        if run.method == edge:  # second by the first seed, best by all
            line["validation"] = 89.0 if run.seed == study.CHOOSING[0] else 95.0
        runs.append(run)
        results.add(run, line)
    assert results.best_of_grid(CASE) == edge
    rates, sums = rates_and_sums(study, results.grid(CASE))
    assert rates == [*study.LEARNING_RATES, 1.0]
    assert sums == list(study.DECAY_SUMS)
    assert {run.method for run in runs} >= set(results.grid(CASE))


def test_a_finalist_that_the_grown_grid_pushes_out_can_still_be_chosen(study, tmp_path):
    results = study.Results(tmp_path / "r.jsonl")
    beyond, third, second, first = study.grid_of(study.PLAIN, (0.003, 0.01, 0.03, 0.1), (0.3,))
    by_seed = {
        first: (90.0, 90.0), second: (88.0, 88.0), third: (80.0, 98.0), beyond: (85.0, 85.0)
    }  # fmt: skip
    for run in study.missing(results, CASE, "lead"):
        line = made_up(run)
        if run.method in by_seed:
            line["validation"] = by_seed[run.method][run.seed != study.CHOOSING[0]]
        results.add(run, line)
    grid = results.grid(CASE)
    assert beyond in grid  # and is among the three best by the first seed, instead of `third`
    assert third not in results.finalists(CASE, grid)
    assert results.best_of_grid(CASE) == third
    assert {s for c, m, s in results.lines if m == third} == {*study.CHOOSING, *study.SEEDS}


@pytest.mark.parametrize(
    "part, case, suffix, point, for_all",
    [
        ("tuned", "digits-vgg-5", "", "lr 0.03, sum 1", "[+0.29, +9.71]"),
        ("tuned_adam", "textures-vgg-5", ":optimizer=adam", "lr 0.003, sum 1", "[+0.94, +9.06]"),
    ],
)
def test_every_method_is_tuned_over_a_grid_of_its_own(
    study, tmp_path, part, case, suffix, point, for_all
):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    method = "irnet:input_quantizer=ede_sign"
    better = study.grid_of(method + suffix)[6]
    finish(study, results, part, case=case, better=better)
    methods = study.METHODS_ADAM if suffix else study.METHODS
    assert len(methods) == (12 if suffix else 20)
    for words in methods:
        best = results.best_of_grid(case, words + suffix)
        assert best.startswith(f"{words}{suffix}:learning_rate=")
        seeds = [seed for _, name, seed in results.lines if name == best]
        assert sorted(seeds) == sorted([*study.CHOOSING, *study.SEEDS])
    assert results.best_of_grid(case, method + suffix) == better
    for seed in study.SEEDS:  # plain sign has 50.0 everywhere
        results.lines[case, better, seed]["test"] = 53.0 + seed
    page, *_ = study_report.write(results, tmp_path)
    (row,) = [
        text for text in page.read_text().splitlines() if text.startswith(f"| {method} | 55.00")
    ]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "55.00 ± 1.58 (5)"
    assert cells[2] == point
    # Student's t of 4 degrees of freedom: 2.776 for one, 5.740 for eleven, 6.666 for nineteen.
    assert cells[3] == "+5.00 [+3.04, +6.96]"
    assert cells[4] == for_all


def test_goes_on_where_it_was_stopped(study, tmp_path):
    path = tmp_path / "r.jsonl"
    first = study.Results(path)
    done = []
    for run in study.missing(first, CASE, "lead"):
        first.add(run, made_up(run))
        done.append(run)
        if len(done) == 5:
            break
    rest = finish(study, study.Results(path), "lead")
    whole = finish(study, study.Results(tmp_path / "other.jsonl"), "lead")
    assert [run.key for run in [*done, *rest]] == [run.key for run in whole]
    assert len(path.read_text().splitlines()) == len(whole)


def test_report_shows_each_figure_where_it_belongs(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    best = study.GRID[9]
    finish(study, results, "lead", better=best)
    for seed in study.SEEDS:
        for words, value in ((best, 80.0 + seed), (study.GEODESIC, 81.0 + seed)):
            results.lines[CASE, words, seed]["test"] = value
    page, plot = study_report.write(results, tmp_path)
    row = next(line for line in page.read_text().splitlines() if line.startswith(f"| {CASE} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    point = dict(field.split("=") for field in best.split(":")[1:])
    assert cells[1:4] == [
        "82.00 ± 1.58 (5)",
        f"lr {point['learning_rate']}, sum {point['decay_sum']}",
        "83.00 ± 1.58 (5)",
    ]
    assert cells[4] == "+1.00 [+1.00, +1.00]"
    assert plot.name == f"{CASE}.png" and plot.stat().st_size > 5000


def test_a_run_that_ends_in_nan_is_a_result(study, tmp_path, monkeypatch):
    import study_report

    from hbnn_larq.training import run

    def diverges(*_, **__):
        raise FloatingPointError(
            "step 97: gradient is not finite. The last checkpoint in x is good."
        )

    monkeypatch.setattr(run, "fit", diverges)
    results = study.Results(tmp_path / "r.jsonl")
    point = study.Run(CASE, study.GRID[3], study.CHOOSING[0])
    line = study.train(point, {})
    assert line["diverged"] == "step 97: gradient is not finite."
    results.add(point, line)
    finish(study, results, "lead", better=study.GRID[9])
    page, *_ = study_report.write(results, tmp_path)
    assert "| 3 | diverged |" in page.read_text()
    assert results.best_of_grid(CASE) == study.GRID[9]


def test_costs_are_told_against_plain_sign(study, tmp_path):
    import study_report

    plain = {"step_ms": 50.0, "step_ratio": 1.0, "peak_mb": 600.0, "file_kb": 62.4}
    other = {"step_ms": 55.0, "step_ratio": 1.1, "peak_mb": 580.0, "file_kb": None}
    machine = {"cpu": "a processor", "cores": 2, "date": "2026-01-01", "load_average": 3.21}
    methods = {study.PLAIN: plain, study.FLOAT: other}
    costs = {"machine": machine, "width": 0.5, "rounds": 7, "methods": methods}
    (tmp_path / "study_cost.json").write_text(json.dumps(costs))
    page, *_ = study_report.write(study.Results(tmp_path / "r.jsonl"), tmp_path)
    lines = page.read_text().splitlines()
    assert any("2026-01-01, load 3.2 as timing began" in line for line in lines)
    assert "| ste_sign | 1.00 | +0 | 62.4 |" in lines
    assert "| float | 1.10 | -20 | - |" in lines


def test_the_published_page_is_made_from_the_published_results(study, tmp_path):
    """docs/study.md and the table of docs/evidence.md are what `report` writes today."""
    import study_report

    docs = study.RESULTS.parent.parent
    shutil.copy(docs / "evidence.md", tmp_path)
    page, *_, evidence = study_report.write(study.Results(), tmp_path)
    assert page.read_text() == (docs / "study.md").read_text()
    assert evidence.read_text() == (docs / "evidence.md").read_text()
    assert all(mark in evidence.read_text() for mark in study_report.TABLES)


def test_the_table_of_the_evidence_is_replaced_and_nothing_else(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    finish(study, results, "lead", better=study.GRID[9], test=77.0)
    finish(study, results, "adam", better=study.grid_of(study.PLAIN_ADAM)[9], test=78.0)
    best = study.grid_of(study.PLAIN_DECOUPLED)[9]
    finish(study, results, "decoupled", better=best, test=77.5)
    mark, other, *_ = study_report.TABLES
    text = f"before\n{mark}\n| old |\n|---|\n\nafter\n| kept |\n{other}\n\nend\n"
    once = study_report.refreshed(text, results)
    assert once.startswith(f"before\n{mark}\n| case (steps) |")
    assert f"|\n\nafter\n| kept |\n{other}\n| case | plain" in once
    assert once.endswith("|\n\nend\n")
    assert (
        "| digits-vgg-20* | 77.00 ± 0.00 (5) | 77.50 ± 0.00 (5) | lr 0.1, sum 0.3 "
        "| 78.00 ± 0.00 (5) | lr 0.01, sum 0.3 |"
    ) in once
    assert "| digits-vgg-20* (10) | 77.00 ± 0.00 (5) | lr 0.1, sum 0.3 |" in once
    assert study_report.refreshed(once, results) == once
    assert study_report.refreshed("no table", results) == "no table"


def test_fast_thresholds_are_shown_beside_each_tuned_sign(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    case = "digits-vgg-5"
    finish(study, results, "thresholds", case=case, test=79.0)
    (_, _, row) = study_report.TABLES["<!-- thresholds -->"](results).splitlines()
    assert row == f"| {case}* | - | 79.00 ± 0.00 (5) |{' - |' * 9}"
    finish(study, results, "lead", case=case, better=study.GRID[9], test=70.0)
    (head, _, row) = study_report.TABLES["<!-- thresholds -->"](results).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [f"{case}*", "-", "79.00 ± 0.00 (5)", *["-"] * 7, *["+9.00 [+9.00, +9.00]"] * 2]
    for part, method, test in (
        ("adam", study.PLAIN_ADAM, 75.0),
        ("adam_thresholds", study.PLAIN_ADAM_THRESHOLDS, 78.0),
        ("decoupled", study.PLAIN_DECOUPLED, 71.0),
        ("decoupled_thresholds", study.PLAIN_DECOUPLED_THRESHOLDS, 73.0),
    ):
        better = study.grid_of(method)[9]
        finish(study, results, part, case=case, better=better, test=test)
        for seed in study.CHOOSING:  # the best by validation is the last one here
            results.lines[case, better, seed]["validation"] = test + 20.0
    (head, _, row) = study_report.TABLES["<!-- thresholds -->"](results).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == len(head.strip("|").split("|"))
    shown = [float(cell.split()[0]) for cell in cells[1:]]
    assert shown == [75.0, 79.0, 4.0, 75.0, 78.0, 3.0, 71.0, 73.0, 2.0, 4.0, 1.0]
    finish(study, results, "high", case=case, test=80.0)
    finish(study, results, "convolutions", case=case, test=82.0)
    (_, _, row) = study_report.TABLES["<!-- high -->"](results).splitlines()
    cells = row.strip("| ").split(" | ")
    assert cells.pop() == "-"
    shown = [float(cell.split()[0]) for cell in cells[1:]]
    assert shown == [79.0, 80.0, 5.0, 2.0, 82.0, 7.0, 4.0, 75.0]
    finish(study, results, "memory", case=case, test=83.0)
    (head, _, row) = study_report.TABLES["<!-- memory -->"](results).splitlines()
    cells = row.strip("| ").split(" | ")
    assert len(cells) == len(head.strip("|").split("|"))
    assert cells.pop(-2) == "-"  # nobody tuned Adam with a short memory
    shown = [float(cell.split()[0]) for cell in cells[1:]]
    assert shown == [79.0, 83.0, 4.0, 70.0, 13.0, 71.0, 75.0, 8.0, 78.0, 5.0]


def test_wins_are_counted_one_by_one_and_together(study, tmp_path):
    """Student's t of 4 degrees of freedom: 2.776 for one interval, 3.495 for two at once."""
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    for case, gain in (("digits-vgg-5", 4.0), ("digits-vgg-20", 2.2)):
        finish(study, results, "lead", case=case, better=study.GRID[9], test=70.0)
        finish(study, results, "memory", case=case, test=70.0 + gain)
    for seed in study.SEEDS:
        results.lines["digits-vgg-20", study.GEODESIC_MEMORY, seed]["test"] += seed - 2.0
    page, *_ = study_report.write(results, tmp_path)
    text = page.read_text()
    assert (
        "Against SGD, tuned: 2 cases, the higher mean in 2; ahead with an interval that leaves 0 "
        "in 2, behind in 0; with intervals that hold for all 2 at once ahead in 1, behind in 0."
    ) in text
    assert "Against Adam, tuned: 0 cases" not in text


def test_the_default_of_the_library_is_what_the_study_measured(study):
    from hbnn_larq.training import recipes

    measured = study.recipe_of("digits-vgg-20", study.GEODESIC_MEMORY, seed=0)
    published = recipes.find("digits-geodesic")
    of_points = {"base_point_step", "base_point_rate"}  # plain sign has none
    free = {"name", "source", "epochs", "width", *of_points}
    assert set(measured.differences(published)) <= free
    maps = [words for name, words in study.MAPS.items() if "hyperbolic" in name or "epc" in name]
    assert len(maps) == 10
    for words in maps:
        recipe = study.recipe_of("digits-vgg-20", words, seed=0)
        assert not of_points & set(recipe.differences(published))


def test_asked_flips_compare_methods_seed_by_seed_and_case_by_case(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    small, large = "digits-vgg-5", "textures-vgg-5"
    other = next(words for name, words in study.ASKED.items() if name.startswith("irnet:"))
    finish(study, results, "asked", case=small, test=70.0)
    finish(study, results, "asked", case=large, test=50.0)
    for seed in study.SEEDS:  # as much better on one case as worse on the other, but for 1 point
        results.lines[small, other, seed]["test"] += 10.0 + seed
        results.lines[large, other, seed]["test"] -= 8.0 + seed
    head, _, *rows = study_report.TABLES["<!-- asked -->"](results).splitlines()
    assert len(rows) == 12
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "method", f"{small}*", f"{large}*", "mean of all",
    ]  # fmt: skip
    cells = {row.split(" | ")[0]: row.strip(" |").split(" | ") for row in rows}
    assert cells["| ste_sign"][1:] == ["70.0 ± 0.0", "50.0 ± 0.0", "-"]
    mine = cells["| irnet:input_quantizer=ede_sign"]
    assert mine[1] == "82.0 ± 1.6, **+12.0 [+10.0, +14.0]**"
    assert mine[3] == "**+1.0 [+1.0, +1.0]**"


@pytest.mark.parametrize(
    "part, mark, methods, ahead, level_one",
    [
        ("tuned_adam", "<!-- tuned adam -->", "METHODS_ADAM", "slb", "dsq"),
        ("maps_adam", "<!-- tuned maps -->", "MAPS_ADAM", "epc:r=0.05", "hyperbolic:r=0.05"),
    ],
)
def test_methods_tuned_by_adam_stand_side_by_side(
    study, tmp_path, part, mark, methods, ahead, level_one
):
    """Each at its own best point, which may be another one in each case."""
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    cases = {"digits-vgg-5": (70.0, 9), "textures-vgg-5": (50.0, 10)}
    methods = getattr(study, methods)
    method = methods[ahead]
    best = {}
    for case, (test, place) in cases.items():
        best[case] = study.grid_of(method)[place]
        finish(study, results, part, case=case, test=test, better=best[case])
        assert results.best_of_grid(case, method) == best[case]
        for seed in study.SEEDS:
            results.lines[case, best[case], seed]["test"] += 1.0 + place * 1.0
    assert tmp_path / "study" / "methods.png" in study_report.write(results, tmp_path)
    head, _, *rows = study_report.TABLES[mark](results).splitlines()
    assert head == "| method | digits-vgg-5* | textures-vgg-5* | mean of all |"
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in methods]
    cells = {row.split(" | ")[0]: row.strip(" |").split(" | ")[1:] for row in rows}
    assert cells[f"| {ahead}"] == [
        "80.0 ± 0.0, **+10.0 [+10.0, +10.0]**", "61.0 ± 0.0, **+11.0 [+11.0, +11.0]**",
        "**+10.5 [+10.5, +10.5]**",
    ]  # fmt: skip
    level = "+0.0 [+0.0, +0.0]"
    assert cells[f"| {level_one}"] == [f"70.0 ± 0.0, {level}", f"50.0 ± 0.0, {level}", level]
    del results.lines["textures-vgg-5", best["textures-vgg-5"], 4]  # a run that is still missing
    head, _, *rows = study_report.TABLES[mark](results).splitlines()
    assert head.endswith("| textures-vgg-5* | mean of digits-vgg-5 |")
    (row,) = [row for row in rows if row.startswith(f"| {ahead} |")]
    assert row.split(" | ")[2:] == ["-", "**+10.0 [+10.0, +10.0]** |"]
    # Without plain sign there is nothing to compare with.
    results.lines = {k: v for k, v in results.lines.items() if not k[1].startswith(study.PLAIN)}
    assert study_report.TABLES[mark](results) == ""


def test_maps_looked_at_together_get_wider_intervals(study, tmp_path):
    """Student's t at 1 - 0.025 / 12 for twelve rows; at 0.975 in the column of the case."""
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    finish(study, results, "maps", case="digits-vgg-5", test=70.0)
    boundary = study.MAPS["hyperbolic_boundary:r=1"]
    for seed in study.SEEDS:
        results.lines["digits-vgg-5", boundary, seed]["test"] += seed
    rows = study_report.TABLES["<!-- maps -->"](results).splitlines()
    (row,) = [row for row in rows if row.startswith("| hyperbolic_boundary:r=1 |")]
    _, alone, together = row.strip("| ").split(" | ")
    assert alone == "72.0 ± 1.6, **+2.0 [+0.0, +4.0]**"
    assert together == "+2.0 [-2.2, +6.2]"


def test_flips_of_maps_stand_beside_their_accuracy(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    finish(study, results, "maps", case="digits-vgg-5")
    chain = study.MAPS["epc:r=0.05"]
    for seed in study.SEEDS:
        results.lines["digits-vgg-5", chain, seed] |= {
            "flips": 0.012 + seed / 1000, "information_gain": 0.95 + seed / 100,
        }  # fmt: skip
    results.lines["digits-vgg-5", study.MAPS["hyperbolic:r=1"], 4].pop("test")
    table = study_report.TABLES["<!-- flips of maps -->"](results)
    head, _, *rows = table.splitlines()
    cells = dict(row.strip("| ").split(" | ") for row in rows)
    assert head == "| method | digits-vgg-5* |"
    assert cells["ste_sign"] == "0.50, 0.900"
    assert cells["epc:r=0.05"] == "1.40, 0.970"
    assert cells["hyperbolic:r=1"] == "-"
    page, *_ = study_report.write(results, tmp_path)
    assert page.read_text().count(table) == 1


@pytest.mark.parametrize("suffix, rate", [("", 1.0), (":optimizer=adam", 0.1)])
def test_points_where_a_grid_could_not_grow_are_known(study, suffix, rate):
    import study_report

    method = f"slb{suffix}"
    grid = study.grid_of(method, study.ALL_RATES, study.ALL_SUMS)
    inside = set(study.grid_of(method))
    assert {words for words in grid if study_report._capped(words, method)} == set(grid) - inside
    assert max(study.point_of(words)[0] for words in grid) == pytest.approx(rate)


def test_a_mean_over_cases_is_one_over_the_same_cases(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    small, large = "digits-vgg-5", "textures-vgg-5"
    finish(study, results, "maps", case=small, test=70.0)
    finish(study, results, "maps", case=large, test=50.0)
    hyperbolic = study.MAPS["hyperbolic:r=0.05"]
    for seed in study.SEEDS:
        results.lines[small, hyperbolic, seed]["test"] += 1.0
        results.lines[large, hyperbolic, seed]["test"] += 3.0

    def shown():
        head, _, *rows = study_report.TABLES["<!-- maps -->"](results).splitlines()
        (row,) = [row for row in rows if row.startswith("| hyperbolic:r=0.05 |")]
        return head.split(" | ")[-1], row.split(" | ")[-1]

    assert shown() == ("mean of all |", "**+2.0 [+2.0, +2.0]** |")
    del results.lines[large, study.MAPS["epc:r=0.05"], 4]  # a run that is still missing
    assert shown() == (f"mean of {small} |", "**+1.0 [+1.0, +1.0]** |")


def test_a_clock_by_the_step_stands_beside_that_by_the_epoch(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    assert study_report.TABLES["<!-- clock -->"](results) == ""
    finish(study, results, "asked", case="digits-vgg-5", test=70.0)
    finish(study, results, "clock", case="digits-vgg-5", test=70.0)
    slb = study.ASKED["slb"]
    for seed in study.SEEDS:
        results.lines["digits-vgg-5", slb, seed]["test"] += 1.0
        results.lines["digits-vgg-5", slb + ":clock=step", seed]["test"] += 4.0 + seed
    _, _, *rows = study_report.TABLES["<!-- clock -->"](results).splitlines()
    assert len(rows) == 6  # no grid by Adam here, and no row for it
    (row,) = [row for row in rows if "| slb |" in row]
    assert row.strip("| ").split(" | ") == [
        "digits-vgg-5*", "slb", "asked flips", "71.00 ± 0.00 (5)", "76.00 ± 1.58 (5)",
        "+5.00 [+3.04, +6.96]", "+6.00 [+4.04, +7.96]",
    ]  # fmt: skip


def test_scheduled_rivals_of_the_study_are_those_that_hold_a_clock(study):
    import larq as lq
    import numpy as np

    from hbnn_larq import rivals

    for words in study.METHODS_ADAM:
        alias, *fields = words.split(":")
        inputs = dict(field.split("=") for field in fields).get("input_quantizer", "approx_sign")
        layer = lq.layers.QuantDense(2, input_quantizer=inputs, kernel_quantizer=alias)
        layer.build((None, 3))
        layer(np.ones((1, 3), "float32"))
        assert any(rivals.scheduled_quantizers(layer)) == (words in study.SCHEDULED), words


def test_the_default_is_varied_one_thing_at_a_time(study):
    default = study.recipe_of("digits-vgg-5", study.GEODESIC_MEMORY, seed=0)
    for change, words in study.VARIED.items():
        recipe = study.recipe_of("digits-vgg-5", words, seed=0)
        changed = set(default.differences(recipe))
        wanted = {"momentum", "flip_memory"} if change == "momentum=0" else {change.split("=")[0]}
        assert changed == (set() if change == study.PLAIN else wanted)


@pytest.mark.parametrize(
    "part, case, settings",
    [
        ("confirm", "digits-vgg-5", "CONFIRMED"),
        ("confirm_chains", "hard-vgg-5", "CONFIRMED_CHAINS"),
    ],
)
def test_a_second_look_is_paired_on_seeds_of_its_own(study, tmp_path, part, case, settings):
    """Student's t of 9 degrees of freedom: 2.262; the deviation of 0 to 9 is 3.028."""
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    table = study_report.TABLES[f"<!-- {part.replace('_', ' ')} -->"]
    assert table(results) == ""
    finish(study, results, part, case=case, test=70.0)
    _, more, *_, behind = getattr(study, settings).values()
    for seed in study.CONFIRMING:
        results.lines[case, behind, seed]["test"] += seed - 50
        results.lines[case, more, seed]["test"] += seed - 49
    head, _, row = table(results).splitlines()
    cells = row.strip("| ").split(" | ")
    assert len(cells) == len(head.strip("|").split("|"))
    assert cells[1] == "70.00 ± 0.00 (10)"
    assert cells[3] == "75.50 ± 3.03 (10)"
    last = 2 * len(getattr(study, settings)) - 1
    assert cells[last] == "74.50 ± 3.03 (10)"
    assert cells[last + 2] == "+5.50 [+3.33, +7.67]"  # more flips against plain sign
    assert cells[-2:] == ["+4.50 [+2.33, +6.67]", "-1.00 [-1.00, -1.00]"]
    del results.lines[case, behind, 59]
    assert table(results) == ""


def test_the_search_is_looked_at_again_on_seeds_of_its_own(study, tmp_path):
    import study_report

    case, table = "hard-vgg-20", study_report.TABLES["<!-- search again -->"]
    results = study.Results(tmp_path / "r.jsonl")
    finish(study, results, "confirm_search", case=case, test=70.0)
    assert results.lines == {} and table(results) == ""
    finish(study, results, "adam", case=case, test=70.0)
    best = results.best_of_grid(case, study.PLAIN_ADAM)
    finish(study, results, "confirm_search", case=case, test=70.0)
    for seed in study.CONFIRMING:
        results.lines[case, study.GEODESIC_MEMORY, seed]["test"] += seed - 54
    row = table(results).splitlines()[2]
    assert row.startswith(
        f"| {case} | 70.50 ± 3.03 (10) | 70.00 ± 0.00 (10) | +0.50 [-1.67, +2.67]"
    )
    del results.lines[case, best, 59]
    assert table(results) == ""


def test_what_base_points_do_is_shown_beside_plain_sign_at_the_same_point(study, tmp_path):
    import study_report

    results = study.Results(tmp_path / "r.jsonl")
    finish(study, results, "points", case="digits-vgg-5", test=70.0)
    starved = "hyperbolic:r=0.05:learning_rate=0.03:decay_sum=0.1"
    for seed in study.SEEDS:
        results.lines["digits-vgg-5", starved, seed].update(test=72.0, from_base_points=0.3)
        results.lines["digits-vgg-5", f"ste_sign{starved[17:]}", seed]["test"] = 69.0
    rows = study_report.TABLES["<!-- points -->"](results).splitlines()
    assert "| ste_sign, lr 0.03, sum 0.1 | 69.00 ± 0.00 (5) | - | 0.50 | - |" in rows
    mine = "| hyperbolic:r=0.05, lr 0.03, sum 0.1 | 72.00 ± 0.00 (5) | +3.00 [+3.00, +3.00] |"
    assert f"{mine} 0.50 | 30.0 |" in rows
    assert len(rows) == 2 + len(study.POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ste_sign", "irnet:input_quantizer=ede_sign"])
def test_a_loss_without_weight_changes_nothing(study, tmp_path, method):
    """Beside a teacher, or with RAD's loss, nets start, are fed and move on as without one."""
    from dataclasses import replace

    import beyond_recipes
    import numpy as np
    import tensorflow as tf

    from hbnn_larq.training import data
    from hbnn_larq.training.run import fit

    digits = data.load("digits")
    digits = replace(digits, train=digits.train.chosen(np.arange(90)))
    words = study.TAUGHT[method]
    recipe = study.recipe_of("digits-vgg-5", words, 3).changed(epochs=2, width=0.0625)
    for beyond in study.BEYOND_RECIPES:
        assert recipe.name == study.recipe_of("digits-vgg-5", f"{words}{beyond}3.2", 3).name
    fit(recipe, tmp_path / "alone", dataset=digits, say=lambda _: None)
    alone = tf.keras.models.load_model(tmp_path / "alone" / "model.keras")
    real = study.recipe_of("digits-vgg-5", study.FLOAT_ADAM, 3).changed(epochs=1, width=0.0625)
    teacher = beyond_recipes.teacher_of(real, digits, tmp_path / "teacher")
    nets = []
    build = beyond_recipes.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            beyond_recipes, "build_model", lambda *args: nets.append(build(*args)) or nets[-1]
        )
        lines = [
            beyond_recipes.fit_taught(recipe, teacher, 1e-30, digits),
            beyond_recipes.fit_distributed(recipe, 1e-30, digits),
            beyond_recipes.fit_averaged(recipe, "0.9", digits),
            beyond_recipes.fit_distributed(recipe, 2.0, digits),
        ]
    *same, by_rad = nets
    for one, *others in zip(alone.variables, *(net.variables for net in same), strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other, err_msg=one.name)
    # And at its own weight RAD's loss is there.
    kernels = [net.trainable_variables[0].numpy() for net in (alone, by_rad)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3
    for line in lines:
        assert line["steps"] == 6
        assert 0 <= line["test"] <= 100 and line["seconds"] > 0


@pytest.mark.slow
def test_exact_averages_are_those_of_an_epoch_of_batches_after_training(study, tmp_path):
    from dataclasses import replace

    import beyond_recipes
    import numpy as np
    import tensorflow as tf

    from hbnn_larq.training import data

    digits = data.load("digits")
    digits = replace(digits, train=digits.train.chosen(np.arange(96)))
    recipe = study.recipe_of("digits-vgg-5", study.GEODESIC_MEMORY, 3)
    recipe = recipe.changed(epochs=2, width=0.0625)
    nets, build = [], beyond_recipes.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            beyond_recipes, "build_model", lambda *args: nets.append(build(*args)) or nets[-1]
        )
        for momentum in ("0.9", "exact"):
            beyond_recipes.fit_averaged(recipe, momentum, digits)
    usual, exact = nets
    for one, other in zip(usual.trainable_variables, exact.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.name)
    norm = [n for n in exact.layers if isinstance(n, tf.keras.layers.BatchNormalization)][-1]
    before = tf.keras.Model(exact.input, norm.input)
    batches = data.training_batches(digits, batch_size=32, epochs=1, seed=3).take(3)
    means = [tf.reduce_mean(before(images, training=True), (0, 1, 2)) for images, *_ in batches]
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(norm.moving_mean, np.mean(means, axis=0), **tolerance)
    other = usual.get_layer(norm.name).moving_mean
    assert np.abs(norm.moving_mean - other).max() > 100 * tolerance["atol"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ste_sign", "irnet:input_quantizer=ede_sign", "slb"])
def test_runs_that_share_graphs_end_as_they_do_alone(study, tmp_path, method):
    from dataclasses import replace

    import numpy as np
    import one_graph

    from hbnn_larq.training import data
    from hbnn_larq.training.run import fit

    digits = data.load("digits")
    digits = replace(digits, train=digits.train.chosen(np.arange(90)))
    words = study.METHODS_ADAM[method]
    recipes = [
        study.recipe_of("digits-vgg-5", f"{words}:learning_rate={rate}:decay_sum={total}", seed)
        .changed(epochs=2, width=0.0625)
        for rate, total, seed in ((0.01, 0.3, 1), (0.03, 3.0, 2), (0.01, 0.3, 1))
    ]  # fmt: skip
    assert all(map(one_graph.may_share, recipes))
    graphs = one_graph.OneGraph(recipes[0], digits)
    assert all(map(graphs.fits, recipes))
    assert not graphs.fits(recipes[0].changed(momentum=0.7))
    shared = [graphs.fit(recipe) for recipe in recipes]
    graphs.close()
    alone = [
        fit(recipe, tmp_path / str(recipe.seed), dataset=digits, say=lambda _: None)
        for recipe in recipes[:2]
    ]
    for one, other in zip(shared, [*alone, alone[0]], strict=True):
        assert one["seconds"] > 0
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert shared[0]["history"] != shared[1]["history"]


@pytest.mark.parametrize(
    "words",
    [
        "ste_sign:learning_rate=0.1",
        "ste_sign:flip_rate=0.01:optimizer=adam",
        "epc:r=0.05:optimizer=adam",
        "recu+hyperbolic:r=0.05:input_quantizer=recu_sign:optimizer=adam",
    ],
)
def test_graphs_are_shared_only_where_a_variable_can_be_the_decay(study, words):
    import one_graph

    assert not one_graph.may_share(study.recipe_of(CASE, words, 1))


def test_points_of_a_grid_share_graphs_until_another_method_comes(study, monkeypatch):
    import one_graph

    from hbnn_larq.training import run

    seen = []

    class Graphs(one_graph.OneGraph):
        def __init__(self, recipe, dataset):
            self.recipe = one_graph._form(recipe)
            seen.append(f"traced {recipe.kernel_quantizer}")

        def close(self):
            seen.append("closed")

        def fit(self, recipe):
            seen.append(f"seed {recipe.seed}")
            raise FloatingPointError("as every run here")

    def alone(recipe, *_, **__):
        seen.append(f"alone {recipe.kernel_quantizer}")
        raise FloatingPointError("as every run here")

    monkeypatch.setattr(one_graph, "OneGraph", Graphs)
    monkeypatch.setattr(run, "fit", alone)
    graphs, datasets = [], {}
    for words, seed in (("bireal", 1), ("bireal", 2), ("slb", 1), ("epc:r=0.05", 1), ("slb", 1)):
        point = study.Run(CASE, f"{words}:optimizer=adam:learning_rate=0.01:decay_sum=1", seed)
        study.train(point, datasets, graphs)
    assert seen == [
        "traced bireal", "seed 1", "seed 2", "closed", "traced slb", "seed 1", "closed",
        "alone epc", "traced slb", "seed 1",
    ]  # fmt: skip


def test_published_results_are_whole(study):
    lines = [json.loads(text) for text in study.RESULTS.read_text().splitlines()]
    keys = [(line["case"], line["method"], line["seed"]) for line in lines]
    assert len(set(keys)) == len(keys)
    for line in lines:
        assert re.fullmatch(r"[a-z0-9]+-[a-z0-9]+-\d+", line["case"])
        assert 0 <= line["validation"] <= 100
        if line["seed"] in study.CHOOSING:
            assert not set(study.OF_TEST) & line.keys()
        else:
            assert 0 <= line["test"] <= 100


def test_a_run_that_chooses_keeps_its_test_accuracy_to_itself(study, tmp_path):
    results = study.Results(tmp_path / "r.jsonl")
    finish(study, results, "lead", better=study.GRID[9])
    assert list(study.Results(results.path).lines.values()) == list(results.lines.values())
    told = {seed for (_, _, seed), line in results.lines.items() if "test" in line}
    assert told == set(study.SEEDS)
