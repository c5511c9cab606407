"use strict";
// Replaces the content of the page by a new one, which keeps the scroll position and the focus.
// Without scripts the browser reloads the page instead.
const everySeconds = 15;
const stale = document.getElementById("stale");
const pause = document.getElementById("pause");
let paused = false;

async function update() {
  const live = document.getElementById("live");
  const inUse = live.contains(document.activeElement) || !getSelection().isCollapsed;
  if (paused || document.hidden || inUse) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    live.replaceWith(fresh.getElementById("live"));
    document.title = fresh.title;
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
});
document.addEventListener("visibilitychange", update);
setInterval(update, everySeconds * 1000);
