// What the pages do beyond being read: unfold all code, which the browser remembers, and enlarge
// pictures.

const folds = [...document.querySelectorAll("details.above-input")];

function remembered(value) {
  try {
    if (value !== undefined) localStorage.setItem("show-code", value);
    return localStorage.getItem("show-code") === "yes";
  } catch { // A browser may refuse to store anything.
    return value === "yes";
  }
}

function addSwitch() {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-switch";
  const show = (shown) => {
    button.setAttribute("aria-pressed", shown);
    for (const fold of folds) fold.open = shown;
  };
  button.textContent = "Show code";
  button.addEventListener("click", () => {
    show(remembered(button.getAttribute("aria-pressed") === "true" ? "no" : "yes"));
  });
  document.querySelector(".article-header-buttons")?.prepend(button);
  if (remembered()) show(true);
  else button.setAttribute("aria-pressed", "false");
}

// A link to a cell unfolds its code.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target && (target.closest("details") ?? target.querySelector("details.above-input"));
  if (!fold || fold.open) return;
  fold.open = true;
  target.scrollIntoView();
}

function addEnlarging() {
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.setAttribute("aria-label", "Picture");
  dialog.innerHTML = '<button type="button" aria-label="Close">×</button><div tabindex="0"><img alt=""></div>';
  dialog.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  const image = dialog.querySelector("img");
  for (const link of document.querySelectorAll("a.enlarge"))
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      image.removeAttribute("src"); // else the last picture stays until this one is there
      image.src = link.href;
      image.alt = link.querySelector("img").alt;
      dialog.showModal();
    });
}

// On a narrow screen a table that ends in a verdict shows it first.
for (const head of document.querySelectorAll("table.dataframe thead tr:first-child th:last-child"))
  if (head.textContent === "verdict") head.closest(".text_html").scrollLeft = head.offsetLeft;

// What scrolls sideways can be scrolled by keys.
for (const part of document.querySelectorAll("div.math, .text_html"))
  if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;

if (folds.length) addSwitch();
if (document.querySelector("a.enlarge")) addEnlarging();
unfold();
addEventListener("hashchange", unfold);
