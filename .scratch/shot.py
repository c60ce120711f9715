from playwright.sync_api import sync_playwright
import http.server, threading, functools
h=functools.partial(http.server.SimpleHTTPRequestHandler, directory="build/site")
s=http.server.ThreadingHTTPServer(("127.0.0.1",0),h); threading.Thread(target=s.serve_forever,daemon=True).start()
with sync_playwright() as p:
    b=p.chromium.launch(executable_path="/usr/bin/chromium",args=["--no-sandbox","--disable-gpu","--disable-dev-shm-usage"])
    pg=b.new_page(viewport={"width":1300,"height":1500})
    for n in ("index","kubernetes","dashboards"):
        pg.goto(f"http://127.0.0.1:{s.server_port}/"+("" if n=="index" else n+"/")); pg.screenshot(path=f"/tmp/site-{n}.png")
    b.close()
