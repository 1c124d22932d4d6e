// Copy buttons: shown only where they can work.
"use strict";

for (const button of document.querySelectorAll(".copy")) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.text);
    button.textContent = document.body.dataset.copied;
    button.addEventListener("blur", () => { button.textContent = document.body.dataset.copy; }, { once: true });
  });
}
