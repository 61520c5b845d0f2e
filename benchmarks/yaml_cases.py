"""What the reading of configs is fuzzed with: config texts, each fixed by a seed and its number.

Seeds are the shipped sweeps and small nasty texts; one in ten is left as it is.
"""

from pathlib import Path
from random import Random

from benchmarks.mutation import mutated

SHIPPED = sorted(Path(__file__).resolve().parent.parent.joinpath("configs").glob("config_exp*.yaml"))
SOUND = 0.1  # of the texts are not changed
_PHASE = "p: {combinations: [{a: [1, 2]}]}\n"
_LAUGHS = "l0: &l0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 9)
)
_AXES = [f"{{axis{number}: {list(range(100))}}}" for number in range(6)]
_MANY = ", ".join(f"a{number}: {number}" for number in range(100))

TEXTS = [
    _PHASE,
    "defaults: {m: {w: 1}, output_dir: r_{o}}\nexclude: [{o: sgd, a: [1, 2]}]\np:\n  combinations:\n"
    "    - cases: [{}, {o: sgd}, {o: adam, wd: 0.1}]\n    - zip: {a: [1, 2, 3], b: {linspace: [0, 1, 3]}}\n"
    "    - k: {range: [1, 9, 2]}\n      when: {o: [sgd, null]}\n    - m.w: {geomspace: [1, 8, 4]}\n",
    "metric: {name: acc, goal: minimize}\norder: shuffled\npriority: 3\nassume: {lr: 0.1}\nq:\n"
    "  search: {method: random, samples: 9, seed: 1, for_each: [d]}\n  renamed_from: {phase: [p], lr: LR}\n"
    "  combinations:\n    - d: [x, y]\n    - lr: {distribution: log_uniform_values, min: 1e-4, max: 1}\n"
    "    - n: {min: 1, max: 4}\n      when: {d: x}\n    - u: {values: [a, b], probabilities: [0.5, 0.5]}\n"
    "    - z: {distribution: q_normal, mu: 0, sigma: 3, q: 0.5}\n",
    "defaults: {lr: 5e-4, output_dir: './r_{dataset}/{seed}'}\nseeds: [42, 101]\n"
    "exp1:\n  defaults: {epochs: 30}\n  combinations:\n    - data: [iris, wine]\n    - width: [1, 0.1, 2]\n",
    'p:\n  defaults: {command: "python train.py --a {a} --seed {seed}", timeout_s: 1.5, process: fresh}\n'
    "  combinations:\n    - a: [007, '007', nan, .5, 0x1F, 0o17, 1e-4, ~, true, yes, 1:30, 2026-01-01, '']\n",
    "defaults: {<<: &a {lr: 0.1, layers: [64, 64]}, lr: 0.2}\nq: {defaults: *a, combinations: [{a: [1]}]}\n"
    + _PHASE,
    "defaults: {<<: [{a: 1}, {b: 2}]}\np: {combinations: [{c: [{x: 1}, {x: 2}]}]}\n",
    _LAUGHS + _PHASE,
    "defaults: &d {a: *d}\n" + _PHASE,
    "defaults: &d\n  <<: *d\n" + _PHASE,
    f"grid: {{combinations: [{', '.join(_AXES)}]}}\n",
    f"defaults: {{{_MANY}}}\n" + "".join(f"p{n}: {{combinations: [{{b: [1]}}]}}\n" for n in range(40)),
    "p: {combinations: [{a: " + "[" * 60 + "]" * 60 + "}]}\n",
    "p: {combinations: [{a: " + "{b: " * 60 + "1" + "}" * 60 + "}]}\n",
    "[" * 200 + "\n",
    "{a: " * 200 + "\n",
    "- " * 200 + "\n",
    "? " * 200 + "\n",
    "p: {combinations: [{seed: [1, 2, 99999999999999999999, -9223372036854775808, 1.0]}]}\n",
    "p: {combinations: [{a: [1e999, -.inf, .nan, " + "9" * 5000 + ", 0x" + "f" * 5000 + "]}]}\n",
    "a: !!python/object/apply:os.system ['true']\n" + _PHASE,
    "p: {combinations: [{a: [!!binary aGk=, !!set {x}, !!timestamp 2026, !!int '1', !x y, !!float 1]}]}\n",
    "p: {a: 1, a: 2, combinations: [{b: [1]}], combinations: [{b: [2]}]}\np: {}\n",
    "p:\n\tcombinations:\n\t- a: [1]\n",
    "--- {}\n---\n" + _PHASE + "...\n",
    "%YAML 1.1\n%TAG ! tag:x,2000:\n---\n" + _PHASE,
    "",
    "# nothing\n",
    "null\n",
    "42\n",
    "\ufeff" + _PHASE,
    'é\u2028\u2029\x85:\n  combinations: [{日本: [\'\U0001f600\', "\\u0000", "\\uD800", "\\U0010FFFF"]}]\n',
    "p:\n  combinations:\n    - a: |\n        text\n    - b: >-\n        fold\n    - ? [1, 2]\n      : [3]\n",
    "p: {defaults: {output_dir: '../x/{a}'}, combinations: [{a: ['..', '/', 'a:b', \"\\x07\", 'C:\\\\']}]}\n",
    "p: {defaults: {output_dir: 'r{', command: \"a 'b\"}, combinations: [{a: [1]}]}\n",
    "p: {defaults: {gpus: 1, zip: [], seeds: 1, seed: x, timeout_s: -1}, combinations: [{exclude: [1]}]}\n",
    '? "' + "k" * 2000 + '"\n: {combinations: [{a: [1]}]}\n',
    "p: {defaults: {output_dir: '" + "/".join(["{a}"] * 300) + "'}, combinations: [{a: [x, yy, zzz]}]}\n",
]
SEEDS = [path.read_bytes() for path in SHIPPED] + [
    text.encode("utf-8", errors="surrogatepass") for text in TEXTS
]
SENSIBLE = len(SHIPPED) + 7  # the first ones are sweeps as people write them
TOKENS = [
    *(
        b"zip: ",
        b"cases: ",
        b"when: ",
        b"exclude: ",
        b"search: ",
        b"samples: ",
        b"for_each: ",
        b"min: ",
        b"max: ",
    ),
    *(
        b"distribution: ",
        b"range: ",
        b"geomspace: ",
        b"tags: ",
        b"include: ",
        b"{args}",
        b"{a.b}",
        b"{a:json}",
        b"{run_dir}",
    ),
    *(b"&a ", b"*a", b"<<: *a\n", b"<<: ", b"!!python/name:os.system ", b"!!str ", b"!!float ", b"! ", b"!"),
    *(
        b"\t",
        b"\n---\n",
        b"\n...\n",
        b"%YAML 1.2\n",
        b"? ",
        b"|\n",
        b">2\n",
        b"- ",
        b": ",
        b"#",
        b"@",
        b"`",
        b"%",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"'",
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
    ),
    *(
        b"\xe2\x80\xa8",
        b"\xc2\x85",
        b"\x1b[2J",
        b'"\\UFFFFFFFF"',
        b'"\\x"',
        b"99999999999999999999",
        b"1e999",
    ),
    *(
        b".nan",
        b"~",
        b"null",
        b"{a}",
        b"{{",
        b"{dataset}",
        b"../",
        b"seeds: ",
        b"combinations: ",
        b"defaults: ",
    ),
    *(
        b"command: ",
        b"experiment: ",
        b"output_dir: ",
        b"process: ",
        b"timeout_s: ",
        b"gpus: ",
        b"seed: ",
        b"  ",
    ),
]


def config(seed: int, number: int) -> bytes:
    """Return the text of this number."""
    random = Random(f"{seed}:{number}")
    text = random.choice(SEEDS[:SENSIBLE] if random.random() < 0.5 else SEEDS)
    return text if random.random() < SOUND else mutated(random, text, SEEDS, TOKENS)
