// Light, dark, or as the system says.

const choices = ["system", "light", "dark"];
const button = document.getElementById("theme");
let chosen = choices.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";

function show() {
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  button.textContent = `Theme: ${chosen}`;
  document.dispatchEvent(new CustomEvent("theme"));
}

button.addEventListener("click", () => {
  chosen = choices[(choices.indexOf(chosen) + 1) % choices.length];
  localStorage.setItem("theme", chosen);
  show();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("theme")));
show();
