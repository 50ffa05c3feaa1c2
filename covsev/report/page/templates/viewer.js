(() => {
  const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const unpack = text => new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  const models = {};
  // What a notebook's kernel is to the widget: values by name, and who wants to know of changes.
  class Model {
    constructor(values) { this.values = values; this.listeners = {}; this.widget_manager = {get_model: async id => models[id]}; }
    get(name) { return this.values[name]; }
    set(name, value) { this.values[name] = value; this.listeners["change:" + name]?.(); }
    on(name, listener) { this.listeners[name] = listener; }
    off(name) { delete this.listeners[name]; }
    save_changes() {}
    send() {}
    onChange() {}
  }
  const none = {path: {}, paired_img_path: {}, paired_img_data: null, url: "", colormap_negative: "", frame_4d: 0, colormap_type: 0,
    colorbar_visible: false, modulation_image: null};
  const volume = (item, index) => models["volume" + index] = new Model({...none, id: "volume" + index, name: item.name,
    data: new DataView(bytes(item.data).buffer), colormap: "gray", opacity: item.opacity, cal_min: item.low, cal_max: item.high,
    colormap_label: item.colours && {lut: item.colours, min: 0, max: item.high, labels: []}});
  const start = async () => {
    const state = document.getElementById("viewer-state"), button = document.getElementById("start-viewer");
    button.disabled = true;
    state.textContent = "Loading";
    const volumes = JSON.parse(document.getElementById("viewer-volumes").textContent);
    volumes.forEach(volume);
    for (const box of document.querySelectorAll("#viewer-layers input")) {
      box.addEventListener("change", () => models["volume" + box.value].set("opacity", box.checked ? volumes[box.value].opacity : 0));
    }
    const model = new Model({opts: {isRadiologicalConvention: true, backColor: [0, 0, 0, 1], show3Dcrosshair: true, crosshairWidth: 1},
      height: 520, volumes: volumes.map((_, index) => "IPY_MODEL_volume" + index), meshes: [], graph: null, scene: null, draw_lut: null,
      draw_opacity: 0.8, draw_fill_overwrites: true, background_masks_overlays: 0, overlay_outline_width: 0, overlay_alpha_shader: 1,
      this_model_id: null});
    try {
      const library = await unpack(document.getElementById("viewer-library").textContent);
      const widget = (await import(URL.createObjectURL(new Blob([library], {type: "text/javascript"})))).default;
      await widget.initialize({model});
      await widget.render({model, el: document.getElementById("niivue")});
      document.querySelector("#niivue canvas").setAttribute("aria-label", "CT in three planes with lobes and lesions");
      document.getElementById("viewer-layers").hidden = false;
      state.textContent = "Ready";
    } catch (error) {
      state.textContent = "The viewer cannot run in this browser: " + error.message;
    }
  };
  document.getElementById("start-viewer").addEventListener("click", start);
})();
