// The theme wraps wide tables in a box that scrolls; the keyboard must reach it.
document$.subscribe(() =>
  requestAnimationFrame(() => document.querySelectorAll(".md-typeset__scrollwrap").forEach((box) => box.setAttribute("tabindex", "0"))),
);
