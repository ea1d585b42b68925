// Without this script everything is there; with it, long tables can be searched.
"use strict";
for (const figure of document.querySelectorAll("figure.tall")) {
  const field = document.createElement("input");
  field.type = "search";
  field.className = "filter";
  field.placeholder = "Show rows with ...";
  field.setAttribute("aria-label", "Show only rows with these words: " + figure.querySelector("figcaption").textContent);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of figure.querySelectorAll("tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  figure.querySelector("figcaption").after(field);
}
