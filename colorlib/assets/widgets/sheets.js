// Before Safari 16.4 a script can't make a style sheet. The slider's constructor does, and fails
// after it has hidden its photos in an empty shadow. Runs before the slider's own script.
try {
  new CSSStyleSheet();
} catch {
  window.CSSStyleSheet = class {
    replaceSync(text) { this.text = text; }
  };
  Object.defineProperty(ShadowRoot.prototype, "adoptedStyleSheets", {
    set([sheet]) {
      const style = document.createElement("style");
      style.textContent = sheet.text;
      this.append(style);
    },
  });
}
