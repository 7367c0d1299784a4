"""The plan is a value: what runs, who waits, who gives way."""

from workbench.engine.scheduler import Candidate, Plan, Room, Run, Victim, plan


def decoding(seq: int, stored: int, pages: int, extra: int = 0) -> Candidate:
    return Candidate(seq, stored, 1, stored, pages, extra)


def prompt(seq: int, todo: int, stored: int = 0, pages: int = 0) -> Candidate:
    return Candidate(seq, stored, todo, stored, pages, sampled=False)


def room(pages: int, rows: int = 8, chunk: int = 64, page_size: int = 4) -> Room:
    return Room(pages, page_size, rows, chunk)


def test_a_plan_prints_what_the_step_will_do() -> None:
    made = plan([decoding(1, 3, 1), decoding(2, 4, 1), prompt(3, 100)], [], room(99))
    assert str(made) == "Plan(prefill=[s3:0..64], decode=[s1, s2])"
    assert str(Plan(preempt=(7,), waiting=(8,), starved=9)) == (
        "Plan(preempt=[s7], waiting=[s8], starved=s9)"
    )


def test_decodes_go_before_older_prompts_and_rows_are_bounded() -> None:
    made = plan([prompt(1, 9), decoding(2, 0, 1), decoding(3, 0, 1)], [], room(99, rows=2))
    assert made == Plan(decode=(Run(2, 0, 1), Run(3, 0, 1)), waiting=(1,))


def test_prompts_share_the_token_budget_oldest_first() -> None:
    made = plan([prompt(1, 40), prompt(2, 40), prompt(3, 40)], [], room(99, chunk=50))
    assert made.prefill == (Run(1, 0, 40), Run(2, 0, 10))
    assert made.waiting == (3,)


def test_a_prompt_takes_what_pages_there_are() -> None:
    made = plan([prompt(1, 40)], [], room(3))
    assert made.prefill == (Run(1, 0, 12),)


def test_the_youngest_gives_way_and_older_ones_never_do_for_younger() -> None:
    candidates = [decoding(1, 4, 1), decoding(2, 4, 1), decoding(3, 4, 1)]
    victims = [Victim(seq, 1, idle=False) for seq in (1, 2, 3)]
    made = plan(candidates, victims, room(0))
    assert made == Plan(decode=(Run(1, 4, 5),), preempt=(3,), waiting=(2, 3))


def test_idle_branches_give_way_whatever_their_age() -> None:
    made = plan([decoding(5, 4, 1)], [Victim(1, 2, idle=True)], room(0))
    assert made == Plan(decode=(Run(5, 4, 5),), preempt=(1,))


def test_copying_on_write_takes_a_page() -> None:
    assert plan([decoding(1, 2, 1)], [], room(0)).decode == (Run(1, 2, 3),)
    assert plan([decoding(1, 2, 1, extra=1)], [], room(0)).starved == 1


def test_the_oldest_starves_only_when_nobody_can_give() -> None:
    made = plan([decoding(1, 4, 1)], [], room(0))
    assert made == Plan(waiting=(1,), starved=1)
    assert plan([decoding(1, 4, 1)], [Victim(2, 0, idle=True)], room(0)).starved is None
