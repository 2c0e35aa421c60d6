// What is measured beside the answer: the photo's size, and whether the page was in front.

// How wide the photo itself is drawn, CSS px: its element may have bands beside it.
export function drawnWidth(image) {
  const ratio = image.naturalWidth / image.naturalHeight;
  return Math.min(image.clientWidth, image.clientHeight * ratio);
}

export function drawnSide(image) {
  return drawnWidth(image) * Math.max(1, image.naturalHeight / image.naturalWidth);
}

// Calls `look` now and whenever the window changes its size, until what it returns is called.
export function watchSize(look) {
  look();
  window.addEventListener("resize", look);
  return () => window.removeEventListener("resize", look);
}

// Adds up how long another window or tab was in front; what it returns ends that and tells ms.
export function watchFocus() {
  const isAway = () => document.hidden || !document.hasFocus();
  let lost = 0;
  let since = isAway() ? performance.now() : null;
  const look = (event) => {
    const away = event?.type === "blur" || isAway();
    if (since !== null) lost += performance.now() - since;
    since = away ? performance.now() : null;
  };
  const told = [[window, "blur"], [window, "focus"], [document, "visibilitychange"]];
  told.forEach(([target, name]) => target.addEventListener(name, look));
  return () => {
    told.forEach(([target, name]) => target.removeEventListener(name, look));
    look();
    return lost;
  };
}
