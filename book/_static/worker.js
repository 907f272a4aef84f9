// Runs tlbkit beside the page, so that the page never waits for Python.
//
// In:  {open: {python, snapshot, package, bytes, door}} once, then {id, request, told}; request
//      is JSON, door the module that answers, and told whether the asker wants to know how far
//      it is.
// Out: {arrived: fraction} as the files come, {ready: true} once, then {id, reply}; reply is
//      JSON. Before it {id, progress}, if that was asked. {failed: sentence} if Python cannot
//      start, or dies; nothing follows then.

let reply;

// Pyodide waits for ever where one of its files does not arrive; this does not.
const missing = new Promise((_, reject) => {
  const { fetch } = self;
  self.fetch = async (...request) => {
    try {
      const response = await fetch(...request);
      if (response.ok) return response;
      throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
    } catch (error) {
      reject(error);
      throw error;
    }
  };
});

// Tells how much of what is needed has come, whoever asked for it.
function count(bytes) {
  let arrived = 0;
  new PerformanceObserver((list) => {
    for (const { decodedBodySize } of list.getEntries()) arrived += decodedBodySize;
    postMessage({ arrived: Math.min(1, arrived / bytes) });
  }).observe({ type: "resource", buffered: true });
}

async function memory(address) {
  const { body } = await fetch(address);
  const unpacked = body.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

// Makes a started interpreter of a module that has not run yet. Pyodide's own way leaves out
// two things: the memory has to grow first, and what this browser calls functions by is kept,
// as the one that made the snapshot may have another.
function restoring(start) {
  return async (settings) => {
    const module = await start(settings);
    const { API } = module;
    const restore = API.restoreSnapshot;
    API.restoreSnapshot = (snapshot) => {
      const trampoline =
        module.__PyRuntime + module.HEAP32[module.__PyEM_EMSCRIPTEN_TRAMPOLINE_OFFSET >>> 2];
      const own = module.HEAP32[trampoline >>> 2];
      module.growMemory(snapshot.length);
      const state = restore(snapshot);
      module.HEAP32[trampoline >>> 2] = own;
      return state;
    };
    return module;
  };
}

async function open({ python, snapshot, package: archive, bytes, door = "tlbkit.show.bridge" }) {
  count(bytes);
  const _loadSnapshot = memory(snapshot);
  const files = fetch(archive).then((response) => response.arrayBuffer());
  const [{ loadPyodide }, { default: start }] = await Promise.all([
    import(`${python}pyodide.mjs`),
    import(`${python}pyodide.asm.mjs`),
  ]);
  const runtime = await loadPyodide({
    indexURL: python,
    createPyodideModule: restoring(start),
    _loadSnapshot,
  });
  // The memory holds the modules; what they read, or import later, is in the files.
  runtime.unpackArchive(await files, "zip", { extractDir: "/tlbkit" });
  reply = runtime.pyimport(door).reply;
}

onmessage = async ({ data }) => {
  try {
    if (data.open) {
      await Promise.race([open(data.open), missing]);
      postMessage({ ready: true });
    } else {
      const { id, request, told } = data;
      const tell = (...progress) => postMessage({ id, progress });
      postMessage({ id, reply: told ? reply(request, tell) : reply(request) });
    }
  } catch (error) {
    postMessage({ failed: String(error.message || error) });
  }
};
