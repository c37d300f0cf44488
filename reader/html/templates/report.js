(() => {
  const list = document.getElementById("step-list");
  const bar = document.getElementById("filters");
  if (!list || !bar) return;
  bar.hidden = false;
  const steps = [...list.children];
  const buttons = [...bar.querySelectorAll("button[data-purpose]")];
  const trouble = bar.querySelector("input[type=checkbox]");
  const words = bar.querySelector("input[type=search]");
  const count = document.getElementById("step-count");
  let purpose = "";
  const apply = () => {
    const wanted = words.value.trim().toLowerCase();
    let shown = 0;
    for (const step of steps) {
      const fits = (!purpose || step.dataset.purpose === purpose)
        && (!trouble.checked || step.dataset.trouble === "1")
        && (!wanted || step.textContent.toLowerCase().includes(wanted));
      step.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${steps.length} steps shown`;
  };
  for (const button of buttons) button.addEventListener("click", () => {
    purpose = button.dataset.purpose;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    apply();
  });
  trouble.addEventListener("change", apply);
  words.addEventListener("input", apply);
  // A link to a step that a filter hides shows it again.
  addEventListener("hashchange", () => {
    const step = document.getElementById(location.hash.slice(1));
    if (step && step.hidden) { buttons[0].click(); trouble.checked = false; words.value = ""; apply(); step.scrollIntoView(); }
  });
  apply();
})();
