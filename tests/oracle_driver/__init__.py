"""PyMySQL's own test suite, with `greentor.drivers.pymysql` in place of PyMySQL's connection.

It is run three times: on plain PyMySQL, on ours in greenlets, and on ours outside of them. In greenlets
nothing may fail that does not fail on plain PyMySQL; outside of them every outcome is the same.
"""
