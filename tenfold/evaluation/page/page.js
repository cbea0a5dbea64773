"use strict";
// What both pages share: images made from records, lists that grow on demand, filters, details opened for the printer.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE_SIZE = 60;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // never as HTML: names come from files
  return made;
}

/** As `metrics.format_confidence`: whole percent, near 100 % one more digit; never rounded to 100 % or 0 %. */
function formatConfidence(share) {
  if (share < 1 && share >= 0.9995) return "> 99.9 %";
  if (share > 0 && share < 0.005) return "< 1 %";
  return `${(100 * share).toFixed(share >= 0.995 && share < 1 ? 1 : 0)} %`;
}

/** A list that shows some of `records`, and more of them when asked. */
class Gallery {
  constructor(list, count, draw) {
    Object.assign(this, { list, count, draw, records: [], shown: 0 });
    this.button = element("button", "more", "Show more");
    this.button.type = "button";
    this.button.addEventListener("click", () => this.grow());
    list.after(this.button);
  }

  show(records, message) {
    this.records = records;
    this.shown = 0;
    this.list.replaceChildren();
    this.count.textContent = message;
    this.grow();
  }

  grow() {
    const next = this.records.slice(this.shown, this.shown + PAGE_SIZE).map((record) => {
      const item = element("li");
      item.append(this.draw(record));
      return item;
    });
    this.list.append(...next);
    this.shown += next.length;
    this.button.hidden = this.shown >= this.records.length;
  }
}

function fillSelect(select, names) {
  names.forEach((name, number) => {
    const option = element("option", "", name);
    option.value = number;
    select.append(option);
  });
}

/** An image of the sheet with lines of text below it. */
function picture(sheetNumber, className, label, lines) {
  const figure = element("figure", className);
  const image = element("span", `image i${sheetNumber}`);
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", label);
  const caption = element("figcaption");
  caption.append(...lines);
  figure.append(image, caption);
  return figure;
}

window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((details) => (details.open = true));
});
