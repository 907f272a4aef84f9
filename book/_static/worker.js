// Runs tlbkit beside the page, so that the page never waits for Python.
//
// In:  {open: {python, package}} once, then {id, request}; request is JSON.
// Out: {ready: true} or {failed: sentence} once, then {id, reply}; reply is JSON.

let reply;

async function open({ python, package: archive }) {
  const { loadPyodide } = await import(`${python}pyodide.mjs`);
  const [runtime, response] = await Promise.all([
    loadPyodide({ indexURL: python }),
    fetch(archive),
  ]);
  if (!response.ok) {
    throw new Error(`${archive}: ${response.status} ${response.statusText}`);
  }
  const folder = "/tlbkit";
  runtime.unpackArchive(await response.arrayBuffer(), "zip", { extractDir: folder });
  runtime.runPython(`import sys; sys.path.insert(0, "${folder}")`);
  reply = runtime.pyimport("tlbkit.show.bridge").reply;
}

onmessage = async ({ data }) => {
  if (data.open) {
    try {
      await open(data.open);
      postMessage({ ready: true });
    } catch (error) {
      postMessage({ failed: String(error.message || error) });
    }
  } else {
    postMessage({ id: data.id, reply: reply(data.request) });
  }
};
