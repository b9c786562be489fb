"""The arithmetic of the indicators, against worked examples that others have published.

- RSI (14) and Bollinger bands (20, 2): the spreadsheets `cs-rsi.xls` and `cs-bbands.xls` of StockCharts
  ChartSchool (chartschool.stockcharts.com, the pages "Relative Strength Index" and "Bollinger Bands").
- SMA (10) and EMA (10): the table of its page "Moving Averages", with two decimals.
- MACD (12, 26, 9), and the two EMAs in it: the spreadsheet of Invest Excel, "How to Calculate MACD in Excel"
  (investexcel.net), Apple's closes from 2013-02-19 on.
"""

from __future__ import annotations

import pytest

from app import indicators

RSI_CLOSES = [
    44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931,
    46.0328, 45.614, 46.282, 46.282, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521,
    45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314,
]  # fmt: skip
RSI = [
    70.5328, 66.3186, 66.5498, 69.4063, 66.3552, 57.9749, 62.9296, 63.2571, 56.0593, 62.3771, 54.7076,
    50.4228, 39.9898, 41.4605, 41.8689, 45.4632, 37.304, 33.0795, 37.773,
]  # fmt: skip

BANDS_CLOSES = [
    86.1557, 89.0867, 88.7829, 90.3228, 89.0671, 91.1453, 89.4397, 89.175, 86.9302, 87.6752, 86.9596,
    89.4299, 89.3221, 88.7241, 87.4497, 87.2634, 89.4985, 87.9006, 89.126, 90.7043, 92.9001, 92.9784,
    91.8021, 92.6647, 92.6843, 92.3021, 92.7725,
]  # fmt: skip
MIDDLE = [88.70794, 89.04516, 89.239745, 89.390705, 89.5078, 89.68866, 89.7465, 89.91314]
UPPER = [91.291862, 91.949268, 92.612595, 92.9342, 93.31195, 93.72845, 93.899592, 94.266255]
LOWER = [86.124018, 86.141052, 85.866895, 85.84721, 85.70365, 85.64887, 85.593408, 85.560025]

AVERAGES_CLOSES = [
    22.27, 22.19, 22.08, 22.17, 22.18, 22.13, 22.23, 22.43, 22.24, 22.29, 22.15, 22.39, 22.38, 22.61,
    23.36, 24.05, 23.75, 23.83, 23.95, 23.63,
]  # fmt: skip
SMA = [22.22, 22.21, 22.23, 22.26, 22.30, 22.42, 22.61, 22.77, 22.91, 23.08, 23.21]
EMA = [22.22, 22.21, 22.24, 22.27, 22.33, 22.52, 22.80, 22.97, 23.13, 23.28, 23.34]

MACD_CLOSES = [
    459.99, 448.85, 446.06, 450.81, 442.8, 448.97, 444.57, 441.4, 430.47, 420.05, 431.14, 425.66, 430.58,
    431.72, 437.87, 428.43, 428.35, 432.5, 443.66, 455.72, 454.49, 452.08, 452.73, 461.91, 463.58, 461.14,
    452.08, 442.66, 428.91, 429.79, 431.99, 427.72, 423.2, 426.21, 426.98, 435.69, 434.33, 429.8, 419.85,
    426.24, 402.8, 392.05, 390.53, 398.67, 406.13, 405.46, 408.38, 417.2, 430.12, 442.78, 439.29, 445.52,
    449.98, 460.71, 458.66, 463.84, 456.77, 452.97, 454.74, 443.86, 428.85, 434.58, 433.26, 442.93, 439.66,
    441.35,
]  # fmt: skip
EMA_12 = [440.8975, 439.3101923, 438.1424704, 438.1005519, 436.6127747, 435.3415786, 434.9044126]
EMA_26 = [443.2896154, 443.940755, 443.8458842, 442.7395225, 441.7802986, 441.0550913, 440.0673067]
MACD = [
    8.275269504, 7.703378381, 6.416074757, 4.237519783, 2.552583325, 1.37888572, 0.102981491,
    -1.258401953, -2.07055819, -2.621842328, -2.32906674, -2.181632115, -2.402626273,
]  # fmt: skip
SIGNAL = [3.037525869, 1.905652229, 1.058708435, 0.410640325, -0.152012994, -0.790034732]
HISTOGRAM = [-5.108084059, -4.527494558, -3.387775176, -2.59227244, -2.250613279, -2.55208695]


def check(found, first, expected, tolerance):
    """What comes before the first published value is None; the values are those published."""
    assert found[:first] == [None] * first
    assert found[first : first + len(expected)] == pytest.approx(expected, abs=tolerance)


def test_rsi():
    found = indicators.rsi(RSI_CLOSES)
    check(found, 14, RSI, 1e-3)
    assert len(found) == len(RSI_CLOSES)


def test_bollinger():
    found = indicators.bollinger(BANDS_CLOSES)
    check(found.middle, 19, MIDDLE, 1e-5)
    check(found.upper, 19, UPPER, 1e-5)
    check(found.lower, 19, LOWER, 1e-5)


def test_simple_and_exponential_moving_average():
    check(indicators.sma(AVERAGES_CLOSES, 10), 9, SMA, 0.0051)
    check(indicators.ema(AVERAGES_CLOSES, 10), 9, EMA, 0.0051)
    check(indicators.ema(MACD_CLOSES, 12), 11, EMA_12, 1e-7)
    check(indicators.ema(MACD_CLOSES, 26), 25, EMA_26, 1e-7)


def test_macd():
    found = indicators.macd(MACD_CLOSES)
    check(found.macd, 25, MACD, 1e-8)
    check(found.signal, 33, SIGNAL, 1e-8)
    check(found.histogram, 33, HISTOGRAM, 1e-8)
    last = [line[-1] for line in found]
    assert last == pytest.approx([2.762561216, 3.960601297, -1.198040081], abs=1e-8)


@pytest.mark.parametrize(
    ("indicator", "needed"),
    [
        (lambda values: indicators.sma(values, 5), 5),
        (lambda values: indicators.ema(values, 5), 5),
        (lambda values: indicators.rsi(values, 5), 6),
        (lambda values: indicators.bollinger(values, 5).upper, 5),
        (lambda values: indicators.macd(values, 2, 4, 3).macd, 4),
        (lambda values: indicators.macd(values, 2, 4, 3).signal, 6),
        (lambda values: indicators.macd(values, 2, 4, 3).histogram, 6),
    ],
)
def test_a_short_series_gives_none_for_each_value(indicator, needed):
    for length in range(needed):
        assert indicator([1.0] * length) == [None] * length
    found = indicator([1.0] * needed)
    assert found[:-1] == [None] * (needed - 1)
    assert found[-1] is not None


def test_rsi_at_its_ends():
    assert indicators.rsi([1.0, 2.0, 3.0, 4.0], 3)[-1] == 100
    assert indicators.rsi([4.0, 3.0, 2.0, 1.0], 3)[-1] == 0
    assert indicators.rsi([1.0, 1.0, 1.0, 1.0], 3)[-1] == 50


def test_bands_of_a_level_series_meet():
    assert indicators.bollinger([7.1] * 20) == indicators.Bands(*[[None] * 19 + [7.1]] * 3)
