"""What other processes cannot import travels by value: functions and classes of scripts, lambdas, closures."""
