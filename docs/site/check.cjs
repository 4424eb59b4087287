// Opens every page of the site, on a desk and on a phone, light and dark, and fails if axe finds a violation, if a page asks anybody but this
// server for anything, if it is wider than the phone, or if the search finds nothing. With a folder as second argument it leaves pictures there.
const fs = require("fs"), http = require("http"), path = require("path");
const puppeteer = require("puppeteer-core"), axe = require("axe-core");

const [site, pictures] = process.argv.slice(2).map((folder) => path.resolve(folder));
const chromium = process.env.CHROMIUM || ["chromium", "chromium-browser", "google-chrome"]
  .flatMap((name) => process.env.PATH.split(":").map((folder) => path.join(folder, name))).find((file) => fs.existsSync(file));
const pages = fs.readdirSync(site, { recursive: true }).filter((file) => file.endsWith(".html") && !/404.html$|source\//.test(file)).sort();
const types = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json" };
const server = http.createServer((request, response) => {
  const file = path.join(site, decodeURIComponent(new URL(request.url, "http://site").pathname));
  const there = fs.existsSync(file) && fs.statSync(file).isFile();
  response.writeHead(there ? 200 : 404, { "Content-Type": types[path.extname(file)] || "application/octet-stream" });
  response.end(there ? fs.readFileSync(file) : "");
});

(async () => {
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const origin = `http://127.0.0.1:${server.address().port}/`;
  const browser = await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox"] });
  const page = await browser.newPage();
  let wrong = 0;
  const complain = (text) => { wrong += 1; console.log(text); };
  page.on("request", (request) => request.url().startsWith(origin) || /^(data|blob):/.test(request.url()) || complain(`${page.url()} asks for ${request.url()}`));
  // The theme looks for a sitemap of each language; the plugin writes one for all.
  page.on("response", (response) => response.status() === 404 && !response.url().endsWith("/sitemap.xml") && complain(`${page.url()}: ${response.url()} is not there`));
  for (const [width, height] of [[1280, 900], [390, 844]]) {
    await page.setViewport({ width, height });
    for (const scheme of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      for (const file of pages) {
        const where = `${file}, ${width} px, ${scheme}`;
        await page.goto(origin + file, { waitUntil: "load" });
        await page.evaluate(axe.source);
        const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
        for (const { id, help, nodes } of violations) {
          complain(`${where}: ${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
        }
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        if (wide > width) complain(`${where}: is ${wide} px wide`);
        if (pictures) await page.screenshot({ path: path.join(pictures, `${file.replace(/\W/g, "-")}-${width}-${scheme}.png`) });
      }
    }
  }
  for (const [file, word] of [["index.html", "padding"], ["zh-CN/index.html", "填充"]]) {
    const page = await browser.newPage();
    await page.setViewport({ width: 1280, height: 900 });
    await page.goto(origin + file, { waitUntil: "networkidle0" });
    await page.type("[data-md-component=search-query]", word);
    await page.waitForNetworkIdle();
    await page.keyboard.press("End"); // the search listens to keys, and not to text that is put in without one
    const found = await page.waitForSelector(".md-search-result__item", { timeout: 20000 }).catch(() => null);
    if (!found) complain(`${file}: the search does not find ${word}`);
    if (pictures) await page.screenshot({ path: path.join(pictures, `search-${word}.png`) });
  }
  await browser.close();
  server.close();
  console.log(`${pages.length} pages, desktop and phone, light and dark: ${wrong || "no"} violations`);
  process.exit(wrong ? 1 : 0);
})();
