// One run: DATA.classes, DATA.images: [true class, answer, certainty, name].

const IMAGES = DATA.images.map(([truth, said, sure, name], sheet) => ({ truth, said, sure, name, sheet }));
const bySureness = (a, b) => b.sure - a.sure;

function draw(image) {
  const right = image.truth === image.said;
  const truth = DATA.classes[image.truth];
  const said = DATA.classes[image.said];
  const answer = element("span", "answer", `${right ? "✓" : "✗"} ${said} ${sure(image.sure)}`);
  const label = right
    ? `${image.name}: ${truth}, recognised, ${sure(image.sure)} sure`
    : `${image.name}: ${truth}, taken for ${said}, ${sure(image.sure)} sure`;
  const figure = picture(image.sheet, right ? "right" : "wrong", label, [element("span", "", truth), answer]);
  figure.title = image.name;
  return figure;
}

// --- the mistakes and their filters ---

const filters = document.getElementById("filters");
const mistakes = IMAGES.filter((image) => image.truth !== image.said);
const mistakeGallery = new Gallery(document.getElementById("mistake-list"), document.getElementById("mistake-count"), draw);

function filter() {
  const { truth, said, least, most, order } = filters.elements;
  const wanted = mistakes.filter(
    (image) =>
      (truth.value === "" || image.truth === Number(truth.value)) &&
      (said.value === "" || image.said === Number(said.value)) &&
      100 * image.sure >= Number(least.value) &&
      100 * image.sure <= Number(most.value),
  );
  wanted.sort(order.value === "least" ? (a, b) => -bySureness(a, b) : bySureness);
  document.getElementById("least-value").textContent = `${least.value} %`;
  document.getElementById("most-value").textContent = `${most.value} %`;
  mistakeGallery.show(wanted, `${wanted.length.toLocaleString("en")} of ${mistakes.length.toLocaleString("en")} mistakes`);
}

fillSelect(filters.elements.truth, DATA.classes);
fillSelect(filters.elements.said, DATA.classes);
filters.hidden = false;
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filter();

// --- the confusion matrix ---

const dialog = document.getElementById("cell");
const cellGallery = new Gallery(document.getElementById("cell-list"), document.getElementById("cell-count"), draw);

function openCell(button) {
  const truth = Number(button.dataset.truth);
  const said = Number(button.dataset.said);
  const total = Number(button.dataset.count);
  const images = IMAGES.filter((image) => image.truth === truth && image.said === said).sort(bySureness);
  const names = [DATA.classes[truth], DATA.classes[said]];
  document.getElementById("cell-title").textContent =
    truth === said ? `${names[0]}, recognised` : `${names[0]}, taken for ${names[1]}`;
  const some = images.length < total ? `${images.length} of ${total.toLocaleString("en")} images` : `${total} images`;
  cellGallery.show(images, `${some}, the surest first`);
  dialog.showModal();
}

document.querySelectorAll("button[data-truth]").forEach((button) => {
  button.addEventListener("click", () => openCell(button));
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.closest(".close")) dialog.close();
});

// Within the matrix the arrow keys move, and only one button is a stop of the tabulator.
const matrix = document.querySelector(".matrix tbody");
if (matrix) {
  const buttons = [...matrix.querySelectorAll("button")];
  buttons.forEach((button, number) => (button.tabIndex = number ? -1 : 0));
  matrix.addEventListener("keydown", (event) => move(event, buttons));
}

function move(event, buttons) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const from = event.target.closest("button");
  if (!steps || !from) return;
  event.preventDefault();
  const place = (button) => [Number(button.dataset.truth), Number(button.dataset.said)];
  const [row, column] = place(from);
  const ahead = buttons.filter((button) => {
    const [r, c] = place(button);
    return steps[0] ? c === column && Math.sign(r - row) === steps[0] : r === row && Math.sign(c - column) === steps[1];
  });
  const next = steps[0] + steps[1] > 0 ? ahead[0] : ahead[ahead.length - 1];
  if (!next) return;
  from.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
