// What img-comparison-slider leaves out, in a widget's frame and on the page that colors photos.
"use strict";

const SLOP = 8; // px that a finger may move before it is known to slide or to scroll

/**
 * Gives a slider its position for screen readers, a fixed step for each press of a key (its own keys,
 * which keyboard="disabled" turns off, move it for as long as they are held), and a finger that
 * scrolls the page and so leaves the divider where it is (the element's own follows every touch once
 * it has the focus).
 */
function mendSlider(slider) {
  const first = slider.querySelector("[slot=first] figcaption").textContent;
  const report = () => {
    const percent = Math.round(slider.value);
    if (Number.isNaN(percent)) return; // a browser that can't define the element
    slider.setAttribute("aria-valuenow", percent);
    slider.setAttribute("aria-valuetext", `${percent} % ${first}`);
  };
  slider.addEventListener("slide", report);
  slider.addEventListener("keydown", (event) => {
    const now = slider.value;
    const target = {
      ArrowLeft: now - 5, ArrowRight: now + 5, PageDown: now - 10, PageUp: now + 10, Home: 0, End: 100,
    }[event.key];
    if (target === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    slider.value = target;
    report();
  });
  followFinger(slider);
  report();
}

function followFinger(slider) {
  let start = null;
  let sliding = false;
  slider.addEventListener("pointerdown", (event) => {
    start = event.pointerType === "touch" && event.isPrimary ? event : null;
  });
  slider.addEventListener("pointermove", (event) => {
    if (start === null || event.pointerId !== start.pointerId) return;
    const [across, down] = [event.clientX - start.clientX, event.clientY - start.clientY].map(Math.abs);
    if (!sliding) {
      if (Math.max(across, down) < SLOP) return;
      if (down >= across) return void (start = null);
      sliding = true;
      slider.setPointerCapture(event.pointerId);
      slider.focus({ preventScroll: true });
    }
    slider.slideToPageX(event.pageX);
  });
  for (const end of ["pointerup", "pointercancel"])
    slider.addEventListener(end, () => { start = null; sliding = false; });
}

for (const type of ["touchstart", "touchmove", "touchend"]) {
  document.addEventListener(type, (event) => {
    if (event.target.closest("img-comparison-slider")) event.stopPropagation();
  }, { capture: true, passive: true });
}
