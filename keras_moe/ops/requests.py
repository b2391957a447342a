"""Check the names that users request, against the table of implementations."""


def check_known(table, source, name):
    """Refuse a name that is not in the table."""
    if name not in table:
        known = ", ".join(repr(n) for n in ("auto", *table))
        raise ValueError(f"{source} must be one of {known}; received {name!r}.")


def check(table, source, name, facts, backend):
    """Refuse a name that cannot serve plans of these facts."""
    check_known(table, source, name)
    kind, one = facts.kind, table[name]
    obstacle = one.obstacle(facts)
    if kind not in one.plans or backend not in one.backends:
        reason = (
            f"serves {' and '.join(one.plans)} plans on "
            f"{', '.join(one.backends)}; for a {kind} plan on {backend}"
        )
    elif obstacle:
        reason = f"cannot serve this plan, as {obstacle};"
    else:
        return
    others = ", ".join(
        repr(n)
        for n, other in table.items()
        if kind in other.plans
        and backend in other.backends
        and not other.obstacle(facts)
    )
    raise ValueError(
        f"{source}={name!r} {reason} choose one of 'auto', {others}."
    )
