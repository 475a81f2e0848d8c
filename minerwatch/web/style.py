"""The pages' style sheet, light and dark, and the policy that permits nothing else."""

from __future__ import annotations

import base64
import hashlib

CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#59636e;--line:#d4d9df;--soft:#f4f6f8;
--bar:#6b93c9;--accent:#0b5cad;--suspicious:#8a5a00;--likely:#b3261e;--confirmed:#b3261e}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e4e8ec;--dim:#9aa5b1;--line:#343b44;
--soft:#1d2329;--bar:#5d86bd;--accent:#79b8ff;--suspicious:#e3b341;--likely:#ff8078;
--confirmed:#ff8078}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
header,main,footer{max-width:78rem;margin:0 auto;padding:0 1rem}
header{padding-top:.8rem}
nav{display:flex;gap:.1rem 1.1rem;align-items:baseline;flex-wrap:wrap}
nav strong{font-size:1.05rem}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
a[aria-current]{color:var(--fg);font-weight:600}
h1{font-size:1.35rem;margin:1rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.02rem;margin:1.6rem 0 .4rem}
p{margin:.3rem 0}
.dim,figcaption,footer{color:var(--dim)}
.notice{border-left:3px solid var(--suspicious);padding:.3rem .7rem;background:var(--soft)}
.facts{color:var(--dim);display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;margin:.4rem 0}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{text-align:left;vertical-align:top;padding:.42rem .7rem .42rem 0;
border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:500;font-size:.82rem;white-space:nowrap}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.name{overflow-wrap:anywhere;min-width:12rem}
.text{overflow-wrap:anywhere;min-width:4rem}
p,summary,li{overflow-wrap:anywhere}
.why{color:var(--dim);font-size:.87rem;overflow-wrap:anywhere}
.level{font-weight:600;white-space:nowrap}
.clear,.gone{font-weight:400;color:var(--dim)}
.suspicious{color:var(--suspicious)}.likely{color:var(--likely)}
.confirmed{color:var(--bg);background:var(--confirmed);border-radius:.25rem;padding:.05rem .35rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:.6rem 0}
dt{color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere}
pre{margin:.3rem 0;white-space:pre-wrap;overflow-wrap:anywhere;padding:.6rem .8rem;
background:var(--soft);border-radius:.35rem;
font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{font:.86rem/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
figure{margin:1rem 0}
figcaption{font-size:.87rem;margin-bottom:.25rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:0 1.5rem}
.pair figure{margin:.5rem 0}
svg{width:100%;height:auto;display:block;max-height:19rem}
.busy{fill:var(--bar)}.flagged{fill:var(--likely)}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.tick{fill:var(--dim);font-size:8px}
.pair .tick{font-size:14px}
.hatch{stroke:var(--dim);stroke-width:1;opacity:.45}
.key{display:inline-block;width:.75rem;height:.75rem;border-radius:.15rem;margin-right:.35rem;
vertical-align:-.05rem;border:1px solid var(--line)}
.keys{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem}
.key.busy{background:var(--bar)}.key.flagged{background:var(--likely)}
.key.hatched{background:repeating-linear-gradient(135deg,transparent 0 3px,var(--dim) 3px 4px)}
footer{margin-top:2rem;padding-bottom:1.5rem;font-size:.85rem}
@media screen and (max-width:46rem){
body{font-size:16px}
thead{position:absolute;left:-9999px}
table,tbody{display:block}
tr{display:flex;flex-wrap:wrap;gap:.1rem .9rem;padding:.55rem 0;
border-bottom:1px solid var(--line)}
td{display:block;border:0;padding:0;text-align:left}
td:empty{display:none}
td.name,td.why,td.wide{flex-basis:100%;min-width:0}
td.text{min-width:0}
td[data-label]:not(:empty)::before{content:attr(data-label) " ";color:var(--dim);font-size:.85rem}
dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:.4rem}
.tick,.pair .tick{font-size:19px}
.pair{grid-template-columns:1fr}
svg{max-height:none}
}
"""

REPORT_CSS = """
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.7rem;
margin:1rem 0}
.card{border:1px solid var(--line);border-radius:.4rem;padding:.55rem .8rem}
.card strong{display:block;font-size:1.5rem;line-height:1.3;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
.card span{color:var(--dim);font-size:.85rem}
.bar{fill:var(--likely)}
td.name{min-width:10rem}
td.text{min-width:7rem}
td.short{white-space:nowrap}
.small{max-width:42rem}
@page{margin:14mm}
@media print{
:root{color-scheme:light;--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--soft:#f4f4f4;
--suspicious:#8a5a00;--likely:#b3261e;--confirmed:#b3261e}
html{font-size:9pt}
body{font-size:9pt}
.cards{grid-template-columns:repeat(auto-fit,minmax(8rem,1fr))}
.card strong{font-size:1.3rem}
.tick{font-size:11px}
header,main,footer{max-width:none;padding:0}
table{font-size:7.5pt}
th,.why{font-size:7pt}
th.n{white-space:normal}
th,td{padding:.25rem .4rem .25rem 0}
th{white-space:normal}
td.name{min-width:11rem}
td.text{min-width:6rem}
tr,figure,.card{break-inside:avoid}
h2{break-after:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
"""Of the report, after ``CSS``: it is also printed."""


def source_of(css: str) -> str:
    """Return the source of a policy that permits this style sheet and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()}'"


_NEITHER = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

HEADERS = (
    ("Content-Security-Policy", f"default-src 'none'; style-src {source_of(CSS)}; {_NEITHER}"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
"""Of every response: no script, no resource from elsewhere, no frame, no copy kept."""
