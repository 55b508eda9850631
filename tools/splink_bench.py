"""Matches the public set of bank transactions with Splink, and prints how good, how fast and how large that was.

The settings are those of Splink's own example for this data, without its last blocking rule, which uses the answers. Truth is
used only to count. Pairs are made one to one greedily by match probability, since Splink scores pairs and assigns none.
"""

import json
import resource
import sys
import time
from pathlib import Path

import duckdb
import splink.comparison_level_library as levels
import splink.comparison_library as comparisons
from splink import DuckDBAPI, Linker, SettingsCreator, block_on


def settings(records):
    by_month = "strftime({} , '%Y%m') = strftime(r.transaction_date, '%Y%m')"
    alike = "substr(l.memo, 1, 3) = substr(r.memo, 1, 3) and l.amount / r.amount > 0.7 and l.amount / r.amount < 1.3"
    rounded = "round(l.amount / 2, 0) * 2 = round({} / 2, 0) * 2"
    same_week = "yearweek(r.transaction_date) = yearweek({})"
    later = "transaction_date_r - transaction_date_l <= {} and transaction_date_r >= transaction_date_l"
    return SettingsCreator(
        link_type="link_only",
        probability_two_random_records_match=1 / records,
        blocking_rules_to_generate_predictions=[
            f"{by_month.format('l.transaction_date')} and {alike}",
            f"{by_month.format('l.transaction_date + 15')} and {alike}",
            block_on("substr(memo, 1, 9)"),
            f"{rounded.format('r.amount')} and {same_week.format('l.transaction_date')}",
            f"{rounded.format('(r.amount + 1)')} and {same_week.format('l.transaction_date + 4')}",
        ],
        comparisons=[
            {
                "output_column_name": "amount",
                "comparison_levels": [
                    levels.NullLevel("amount"),
                    levels.ExactMatchLevel("amount"),
                    *(levels.PercentageDifferenceLevel("amount", share) for share in (0.01, 0.03, 0.1, 0.3)),
                    levels.ElseLevel(),
                ],
            },
            comparisons.LevenshteinAtThresholds("memo", [2, 6, 10]),
            {
                "output_column_name": "transaction_date",
                "comparison_levels": [
                    levels.NullLevel("transaction_date"),
                    *(
                        {"sql_condition": later.format(days), "label_for_charts": f"within {days} days"}
                        for days in (1, 4, 10, 30)
                    ),
                    levels.ElseLevel(),
                ],
            },
        ],
    )


def one_to_one(pairs):
    taken_left, taken_right = set(), set()
    for probability, left, right, is_match in pairs:
        if left not in taken_left and right not in taken_right:
            taken_left.add(left)
            taken_right.add(right)
            yield probability, is_match


def curve(chosen, pairs):
    """Best F1 over thresholds, and coverage at the lowest one where at most one pair in a thousand is wrong."""
    right, best, coverage = 0, 0.0, 0.0
    for place, (probability, is_match) in enumerate(chosen):
        right += is_match
        if place + 1 < len(chosen) and chosen[place + 1][0] == probability:
            continue
        best = max(best, 2 * right / (place + 1 + pairs))
        if right >= 0.999 * (place + 1):
            coverage = right / pairs
    return best, coverage


def main(folder):
    api = DuckDBAPI()
    read = duckdb.connect()
    origin, destination = (
        read.sql(f"select * from '{Path(folder) / f'transactions_{name}.parquet'}'").to_arrow_table()
        for name in ("origin", "destination")
    )
    begun = time.perf_counter()
    sides = [
        api.register(origin, dataset_display_name="a_origin"),
        api.register(destination, dataset_display_name="b_destination"),
    ]
    linker = Linker(sides, settings(origin.num_rows))
    linker.training.estimate_u_using_random_sampling(max_pairs=1e6, seed=1)
    linker.training.estimate_parameters_using_expectation_maximisation(block_on("memo"))
    linker.training.estimate_parameters_using_expectation_maximisation(block_on("amount"))
    trained = time.perf_counter()
    predicted = linker.inference.predict(threshold_match_probability=0.001)
    ended = time.perf_counter()
    # Before its answer is compared with the truth, which is no part of matching.
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found = predicted.as_duckdbpyrelation()
    rows = found.select("match_probability, unique_id_l, unique_id_r").fetchall()
    truth = [
        dict(zip(side["unique_id"].to_pylist(), side["ground_truth"].to_pylist())) for side in (origin, destination)
    ]
    pairs = sorted(
        ((p, left, right, truth[0][left] == truth[1][right]) for p, left, right in rows), key=lambda row: (-row[0], row[3])
    )
    partners = set(truth[1].values())
    f1, coverage = curve(list(one_to_one(pairs)), sum(group in partners for group in truth[0].values()))
    records = origin.num_rows + destination.num_rows
    print(
        json.dumps(
            {
                "tool": "splink",
                "records": records,
                "seconds": round(ended - begun, 2),
                "seconds_predict_only": round(ended - trained, 2),
                "records_per_second": round(records / (ended - begun)),
                "records_per_second_predict_only": round(records / (ended - trained)),
                "memory_mb": memory_mb,
                "f1": round(f1, 4),
                "coverage_at_999": round(coverage, 4),
            }
        )
    )


main(sys.argv[1])
