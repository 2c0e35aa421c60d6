// The page inside a widget's frame. The slider element itself is img-comparison-slider,
// which slider.js mends.
"use strict";

// Other photos on the right.
for (const slider of document.querySelectorAll("img-comparison-slider")) {
  mendSlider(slider);
  const first = slider.querySelector("[slot=first] figcaption").textContent;
  const figures = [...slider.querySelectorAll("[slot=second]")];
  const choose = (chosen) => {
    figures.forEach((figure, index) => { figure.hidden = index !== chosen; });
    const names = `${first} or ${figures[chosen].querySelector("figcaption").textContent}`;
    slider.setAttribute("aria-label", [names, slider.dataset.alt].filter(Boolean).join(": "));
  };
  const buttons = (slider.closest(".slide") ?? document).querySelectorAll(".versions input");
  buttons.forEach((button, index) => button.addEventListener("change", () => choose(index)));
  choose(0);
}

for (const gallery of document.querySelectorAll(".gallery")) {
  const area = gallery.querySelector(".slides");
  const slides = [...gallery.querySelectorAll(".slide")];
  const strip = gallery.querySelector(".thumbs");
  const thumbs = [...strip.children];
  let index = 0;
  const show = (wanted) => {
    index = (wanted + slides.length) % slides.length;
    slides.forEach((slide, i) => slide.classList.toggle("shown", i === index));
    thumbs.forEach((thumb, i) => {
      thumb.tabIndex = i === index ? 0 : -1;
      if (i === index) thumb.setAttribute("aria-current", "true");
      else thumb.removeAttribute("aria-current");
    });
    // scrollIntoView would also scroll the page around the frame.
    const thumb = thumbs[index];
    if (strip.contains(document.activeElement)) thumb.focus({ preventScroll: true });
    strip.scrollTo({ left: thumb.offsetLeft - (strip.clientWidth - thumb.offsetWidth) / 2 });
  };
  thumbs.forEach((thumb, i) => thumb.addEventListener("click", () => show(i)));
  gallery.querySelector(".previous").addEventListener("click", () => show(index - 1));
  gallery.querySelector(".next").addEventListener("click", () => show(index + 1));
  gallery.addEventListener("keydown", (event) => {
    const target = {
      ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: slides.length - 1,
    }[event.key];
    if (target === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.matches("input")) return; // the arrows choose a version there
    event.preventDefault();
    show(target);
  });
  // A swipe turns the page, except on a slider, whose divider follows the finger.
  let start = null;
  area.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 ? event.touches[0].clientX : null;
  }, { passive: true });
  area.addEventListener("touchend", (event) => {
    const moved = start === null ? 0 : event.changedTouches[0].clientX - start;
    if (Math.abs(moved) > 40) show(index - Math.sign(moved));
    start = null;
  });
  show(0);
}

// The frame takes the height of its content and the text color of the page around it.
// Where the outer page is of another origin, the height written in the markup stays.
const frame = window.frameElement;
if (frame) {
  const follow = () => { document.body.style.color = getComputedStyle(frame.parentElement).color; };
  const fit = () => { frame.style.height = `${Math.ceil(document.body.getBoundingClientRect().height)}px`; };
  if (document.querySelector(".gallery, .versions")) {
    document.documentElement.style.overflow = "hidden";
    new ResizeObserver(fit).observe(document.body);
  }
  // Jupyter marks its theme on the body, the pages' theme on the root.
  for (const marked of [parent.document.body, parent.document.documentElement])
    new MutationObserver(follow).observe(marked, { attributes: true });
  follow();
}
