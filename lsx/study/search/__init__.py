"""What is tried next: proposals, Optuna's record of all trials, and what stops hopeless ones."""
