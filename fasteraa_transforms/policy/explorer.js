"use strict";
// What the page holds is in #data: pictures as addresses, and places in that list wherever one is shown.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const chosen = (name) => Number(document.querySelector(`input[name="${name}"]:checked`).value);

function showOperation() {
  const photo = chosen("photo"), operation = data.operations[chosen("operation")];
  const slider = byId("magnitude"), steps = operation.texts.length;
  slider.max = steps - 1;
  byId("slider").hidden = steps === 1;
  const step = Number(slider.value);
  byId("before").src = data.pictures[data.originals[photo]];
  byId("after").src = data.pictures[operation.pictures[photo][step]];
  byId("after").alt = byId("said").textContent = operation.texts[step];
  slider.setAttribute("aria-valuetext", operation.texts[step]);
}

function chooseOperation() {
  const operation = data.operations[chosen("operation")];
  byId("magnitude").max = operation.texts.length - 1;
  byId("magnitude").value = operation.start;
  byId("use").textContent = operation.use;
  byId("places").replaceChildren(...operation.places.map((place) => {
    const dot = document.createElement("span");
    dot.style.left = `${100 * place}%`;
    return dot;
  }));
  showOperation();
}

function showSubPolicy() {
  const select = byId("sub-policy"), photo = chosen("photo");
  document.querySelectorAll(".stages").forEach((each, i) => { each.hidden = i !== select.selectedIndex; });
  byId("previous").disabled = select.selectedIndex === 0;
  byId("next").disabled = select.selectedIndex === select.length - 1;
  const draws = data.draws[select.selectedIndex][photo];
  byId("draws").replaceChildren(...[[data.originals[photo], ["original"]], ...draws].map(([picture, lines]) => {
    const figure = document.createElement("figure"), image = document.createElement("img");
    const caption = document.createElement("figcaption");
    image.src = data.pictures[picture];
    image.alt = lines.join(", ");
    caption.innerText = lines.join("\n");
    figure.append(image, caption);
    return figure;
  }));
}

function move(by) {
  byId("sub-policy").selectedIndex += by;
  showSubPolicy();
}

byId("operations").addEventListener("change", chooseOperation);
byId("magnitude").addEventListener("input", showOperation);
byId("sub-policy").addEventListener("change", showSubPolicy);
byId("previous").addEventListener("click", () => move(-1));
byId("next").addEventListener("click", () => move(1));
document.querySelector(".photos").addEventListener("change", () => { showOperation(); showSubPolicy(); });
chooseOperation();
showSubPolicy();
