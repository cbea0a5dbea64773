// One run: DATA.classes, DATA.images: [true class, predicted class, confidence, name].

const IMAGES = DATA.images.map(([truth, predicted, confidence, name], sheet) => ({ truth, predicted, confidence, name, sheet }));
const byConfidence = (a, b) => b.confidence - a.confidence;

function draw(image) {
  const right = image.truth === image.predicted;
  const truth = DATA.classes[image.truth];
  const predicted = DATA.classes[image.predicted];
  const confidence = formatConfidence(image.confidence);
  const answer = element("span", "answer", `${right ? "✓" : "✗"} ${predicted} ${confidence}`);
  const outcome = right ? "correct" : `predicted ${predicted}`;
  const label = `${image.name}: ${truth}, ${outcome}, confidence ${confidence}`;
  const figure = picture(image.sheet, right ? "right" : "wrong", label, [element("span", "", truth), answer]);
  figure.title = image.name;
  return figure;
}

// --- the mistakes and their filters ---

const filters = document.getElementById("filters");
const mistakes = IMAGES.filter((image) => image.truth !== image.predicted);
const mistakeGallery = new Gallery(document.getElementById("mistake-list"), document.getElementById("mistake-count"), draw);

function filter() {
  const { truth, predicted, least, most, order } = filters.elements;
  const wanted = mistakes.filter(
    (image) =>
      (truth.value === "" || image.truth === Number(truth.value)) &&
      (predicted.value === "" || image.predicted === Number(predicted.value)) &&
      100 * image.confidence >= Number(least.value) &&
      100 * image.confidence <= Number(most.value),
  );
  wanted.sort(order.value === "least" ? (a, b) => -byConfidence(a, b) : byConfidence);
  document.getElementById("least-value").textContent = `${least.value} %`;
  document.getElementById("most-value").textContent = `${most.value} %`;
  mistakeGallery.show(wanted, `${wanted.length.toLocaleString("en")} of ${mistakes.length.toLocaleString("en")} mistakes`);
}

fillSelect(filters.elements.truth, DATA.classes);
fillSelect(filters.elements.predicted, DATA.classes);
filters.hidden = false;
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filter();

// --- the confusion matrix ---

const dialog = document.getElementById("cell");
const cellGallery = new Gallery(document.getElementById("cell-list"), document.getElementById("cell-count"), draw);

function openCell(button) {
  const truth = Number(button.dataset.truth);
  const predicted = Number(button.dataset.predicted);
  const total = Number(button.dataset.count);
  const images = IMAGES.filter((image) => image.truth === truth && image.predicted === predicted).sort(byConfidence);
  const names = [DATA.classes[truth], DATA.classes[predicted]];
  document.getElementById("cell-title").textContent =
    truth === predicted ? `${names[0]}, correct` : `${names[0]}, predicted ${names[1]}`;
  const some = images.length < total ? `${images.length} of ${total.toLocaleString("en")} images` : `${total} images`;
  cellGallery.show(images, `${some}, most confident first`);
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
  const place = (button) => [Number(button.dataset.truth), Number(button.dataset.predicted)];
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
