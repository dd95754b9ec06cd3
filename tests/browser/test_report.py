"""The report of a study, opened as a file."""

from tests.browser.conftest import Tracked, Window

SECTIONS = ("asked", "answer", "front", "history", "importances", "parallel")
MORE = ("timeline", "curves", "gallery", "failures", "trials", "manifest")


def test_the_report_is_whole_interactive_and_alone(window: Window, tracked: Tracked) -> None:
    page = window.page
    page.goto((tracked.folder / "report.html").as_uri())
    for name in (*SECTIONS, *MORE):
        page.locator(f"#{name}").wait_for(state="attached")
    plots = page.locator(".js-plotly-plot")
    plots.first.wait_for()
    assert plots.count() >= 4
    drawn = page.locator("#front .js-plotly-plot")
    drawn.scroll_into_view_if_needed()
    drawn.locator(".main-svg").first.wait_for()
    page.evaluate("plot => Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 0}])", drawn.element_handle())
    drawn.locator(".hoverlayer .hovertext").first.wait_for()
    assert page.locator("#gallery img").first.evaluate("picture => picture.naturalWidth") > 20
    assert window.errors == []
