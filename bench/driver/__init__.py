"""What a query costs the process that asks it: CPU microseconds, driver against driver.

    python -m bench.driver [--quick] [--check] [--out DIR]
    python -m bench.driver --profile thousand

`workloads` says what is asked, `clients` how each driver asks it, `worker` is the process that is measured,
`rounds` the order of the measurements, `report` the table, the plot and the limits, and `profiler` tells
where the time of our own driver goes.
"""
