// Runs tlbkit beside the page, so that the page never waits for Python.
//
// In:  {open: {python, package, door}} once, then {id, request, told}; request is JSON, door
//      the module that answers, and told whether the asker wants to know how far it is.
// Out: {ready: true} once, then {id, reply}; reply is JSON. Before it {id, progress}, if that
//      was asked. {failed: sentence} if Python cannot start, or dies; nothing follows then.

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

async function open({ python, package: archive, door = "tlbkit.show.bridge" }) {
  const { loadPyodide } = await import(`${python}pyodide.mjs`);
  const [runtime, sources] = await Promise.all([
    loadPyodide({ indexURL: python }),
    fetch(archive).then((response) => response.arrayBuffer()),
  ]);
  const folder = "/tlbkit";
  runtime.unpackArchive(sources, "zip", { extractDir: folder });
  runtime.runPython(`import sys; sys.path.insert(0, "${folder}")`);
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
