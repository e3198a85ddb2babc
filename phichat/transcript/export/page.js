"use strict";
(function () {
  const source = JSON.parse(document.getElementById("source").textContent);
  const texts = source.conversations.flatMap((conversation) => conversation.messages.map((message) => message.text));
  const sections = Array.from(document.querySelectorAll("section.message"));

  function unescaped(text) {
    return text.replace(/\u27e6U\+([0-9A-F]{4,6})\u27e7/g, (all, code) => String.fromCodePoint(parseInt(code, 16)));
  }

  function written(button) {
    const figure = button.closest("figure");
    if (figure) return unescaped(figure.querySelector("code").textContent);
    return texts[sections.indexOf(button.closest("section"))];
  }

  function selected(text) {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const text = written(button);
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      done = selected(text);
    }
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
})();
