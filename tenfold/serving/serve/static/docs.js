"use strict";
// Lists what /openapi.json describes.

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function row(cells) {
  const made = document.createElement("li");
  made.append(...cells);
  return made;
}

function describe(path, method, route) {
  const made = document.createElement("article");
  made.append(element("h3", `${method.toUpperCase()} ${path}`), element("p", route.description ?? route.summary));
  const parameters = (route.parameters ?? []).map((p) => row([element("code", p.name), ` – ${p.description ?? p.in}`]));
  const kinds = Object.keys(route.requestBody?.content ?? {}).map((kind) => row(["body: ", element("code", kind)]));
  if (parameters.length + kinds.length) {
    const list = document.createElement("ul");
    list.append(...parameters, ...kinds);
    made.append(list);
  }
  return made;
}

async function list() {
  const token = sessionStorage.getItem("token"); // from the page
  const response = await fetch("/openapi.json", token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  const schema = await response.json();
  if (!response.ok) throw new Error(schema.error);
  const routes = Object.entries(schema.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => describe(path, method, route)),
  );
  document.getElementById("routes").replaceChildren(...routes);
}

const here = location.origin;
document.getElementById("curl").textContent = [
  `curl --data-binary @cat.png '${here}/predict?top=3'`,
  `curl -F image=@cat.png -F image=@dog.jpg ${here}/predict`,
  `curl -H 'Content-Type: application/json' -d '{"image": "…base64…"}' ${here}/predict`,
].join("\n");
list().catch((error) => {
  document.getElementById("routes").textContent = `${error.message}. Enter a token on the web page.`;
});
