for (const viewer of document.querySelectorAll(".viewer")) {
  const slider = viewer.querySelector("input[type=range]"), use = viewer.querySelector("use");
  const text = viewer.querySelector("output"), picture = viewer.querySelector("svg.slice");
  const marks = viewer.querySelectorAll(".burden .here"), slices = JSON.parse(viewer.dataset.slices);
  const show = () => {
    const slice = slices[slider.value];
    use.setAttribute("href", "#" + slice.id);
    text.textContent = slice.text;
    picture.setAttribute("aria-label", slice.text);
    slider.setAttribute("aria-valuetext", slice.text);
    marks.forEach(mark => mark.setAttribute("x", slider.value));
  };
  slider.addEventListener("input", show);
  viewer.querySelector(".burden").addEventListener("click", event => {
    const box = event.currentTarget.getBoundingClientRect();
    slider.value = Math.floor(slices.length * (event.clientX - box.left) / box.width);
    show();
  });
  for (const button of document.querySelectorAll(`button[data-plane="${viewer.dataset.plane}"]`)) {
    button.addEventListener("click", () => {
      slider.value = slices.findIndex(slice => slice.id === button.dataset.slice);
      show();
      slider.focus();
      viewer.scrollIntoView({block: "nearest"});
    });
  }
  slider.value = viewer.dataset.first;
  show();
}
for (const box of document.querySelectorAll("#outlines input")) {
  const apply = () => document.documentElement.style.setProperty("--show-" + box.value, box.checked ? "inline" : "none");
  box.addEventListener("change", apply);
  apply();
}
