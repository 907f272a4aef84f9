// Starts the page's Python, imports what answers there, and keeps its memory as a file.
//
//     node snapshot.mjs PYODIDE-FOLDER PACKAGE.zip TARGET.bin.gz
import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

const [folder, archive, target] = process.argv.slice(2);

try {
  const { loadPyodide } = await import(pathToFileURL(`${folder}/pyodide.mjs`));
  const python = await loadPyodide({
    indexURL: folder,
    env: { HOME: "/home/pyodide", PYTHONHASHSEED: "0" },
    _makeSnapshot: true,
  });
  python.unpackArchive(new Uint8Array(await readFile(archive)), "zip", { extractDir: "/tlbkit" });
  python.runPython(`
import gc, sys
sys.dont_write_bytecode = True  # the files are not part of the memory
sys.path.insert(0, "/tlbkit")
import tlbkit.show.bridge, tlbkit.show.trace_desk
gc.collect()
`);
  await writeFile(target, gzipSync(python.makeMemorySnapshot(), { level: 9 }));
} catch (error) {
  // Node would print the line of the script, which is the whole of Pyodide, before it.
  console.error(String(error.message || error));
  process.exitCode = 1;
}
