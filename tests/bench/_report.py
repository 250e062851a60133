"""What every benchmark prints first, and how it makes a ratio."""
import math
import os
import platform
import statistics


def head(question):
    print(question)
    print(f"Linux {os.uname().release} {os.uname().machine}, {platform.python_implementation()} "
          f"{platform.python_version()}, {os.cpu_count()} CPUs")


def median(values):
    return statistics.median(values)


def ratio_of_medians(values, base):
    """Median of the ratios round by round: what drifts in the machine drifts in both."""
    # Where the clock is coarse (user-mode Linux) a round may have taken no time at all.
    return statistics.median([a / b for a, b in zip(values, base) if b] or [math.nan])
