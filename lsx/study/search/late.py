"""What is learnt about a trial after its end."""

import optuna

LATE = "late:"
"""Begins the name of a study's attribute with what was learnt; the trial's number follows."""


def view(study: optuna.Study) -> optuna.Study:
    """A copy in memory with what is learnt after a trial's end (test metrics) among its user attributes.

    Optuna refuses to change finished trials, so that such findings are kept with the study.
    """
    copy = optuna.create_study(study_name=study.study_name, directions=study.directions)
    known = study.user_attrs
    for trial in study.get_trials():
        trial.user_attrs = {**trial.user_attrs, **known.get(f"{LATE}{trial.number}", {})}
        copy.add_trial(trial)
    for name, value in known.items():
        copy.set_user_attr(name, value)
    return copy
