// Runs the models, so that the page stays responsive.  One thread of WebAssembly; no GPU: WebGPU gives wrong outputs.
let ort, session;

onmessage = async ({ data: { id, script, wasm, model, inputs, shapes } }) => {
  try {
    if (script) {
      ort = await import(script);
      Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary: wasm });
    }
    if (model) {
      await session?.release();
      session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
    }
    if (!inputs) return postMessage({ id });
    const feeds = Object.fromEntries(inputs.map(({ name, data, dims }) => [name, new ort.Tensor("float32", data, dims)]));
    const start = performance.now();
    const output = Object.values(await session.run(feeds))[0];
    const seconds = (performance.now() - start) / 1000, found = { dims: [...output.dims], data: output.data.slice() };
    Object.values(feeds).forEach((tensor) => tensor.dispose());
    output.dispose();
    postMessage({ id, seconds, ...found }, [found.data.buffer]);
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
};
