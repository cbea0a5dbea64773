// Several runs: DATA.classes, DATA.runs, DATA.images: [name, true class, prediction of each run, confidence of each run].

const IMAGES = DATA.images.map(([name, truth, predicted, confidence], sheet) => ({ name, truth, predicted, confidence, sheet }));

function draw(image) {
  const truth = DATA.classes[image.truth];
  const answers = DATA.runs.map((run, number) => {
    const right = image.predicted[number] === image.truth;
    const text = `${right ? "✓" : "✗"} ${DATA.classes[image.predicted[number]]} ${formatConfidence(image.confidence[number])}`;
    const line = element("span", right ? "right" : "wrong");
    line.append(element("span", "run-name", `${run} `), element("span", "answer", text));
    return line;
  });
  const spoken = DATA.runs.map((run, number) => `${run} predicts ${DATA.classes[image.predicted[number]]}`).join(", ");
  const figure = picture(image.sheet, "", `${image.name}: ${truth}; ${spoken}`, [element("strong", "", truth), ...answers]);
  figure.title = image.name;
  return figure;
}

const filters = document.getElementById("filters");
const gallery = new Gallery(document.getElementById("image-list"), document.getElementById("image-count"), draw);

function filter() {
  const truth = filters.elements.truth.value;
  const wanted = [...filters.querySelectorAll("select.run")].map((select) => select.value);
  const fits = (image) =>
    (truth === "" || image.truth === Number(truth)) &&
    wanted.every((state, number) => state === "" || (state === "right") === (image.predicted[number] === image.truth));
  const found = IMAGES.filter(fits);
  gallery.show(found, `${found.length.toLocaleString("en")} of ${IMAGES.length.toLocaleString("en")} images`);
}

fillSelect(filters.elements.truth, DATA.classes);
filters.hidden = false;
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filter();
