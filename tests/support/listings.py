"""Programs that list directories while these change, and know what must be listed.

``PROGRAM DIRECTORY SECONDS SEED``: many threads make, remove, rename and list; exit code 1 when a listing misses a name
that was there when it began and stayed, shows one that was gone, or one twice, or when ``rm -rf`` fails.
``LISTER DIRECTORY``: lists it, slowly and at once, until its standard input ends.
"""

PROGRAM = '''
import collections, json, os, random, shutil, subprocess, sys, threading, time

root, seconds, seed = sys.argv[1], float(sys.argv[2]), sys.argv[3]
gone_on = os.path.join(root, "big")
stable = {f"stable-{i:05d}-{'x' * 20}" for i in range(2000)}
counts, wrong = collections.Counter(), []


def touch(*path):
    os.close(os.open(os.path.join(*path), os.O_CREAT | os.O_WRONLY))


def check(names, present=(), absent=()):
    """Everything that was there all the time, once."""
    seen = set(names)
    missing, false = (stable | set(present)) - seen, seen & set(absent)
    if len(seen) < len(names) or missing or false:
        twice = [name for name in seen if names.count(name) > 1]
        raise AssertionError(f"missing {sorted(missing)[:5]}, twice {twice[:5]}, removed {sorted(false)[:5]}")


def whole(random):
    check(os.listdir(gone_on))


def slowly(random):
    names = []
    with os.scandir(gone_on) as entries:
        for entry in entries:
            names.append(entry.name)
            if not random.randrange(500):
                time.sleep(0.002)
    check(names)


def with_attributes(random):
    names = []
    with os.scandir(gone_on) as entries:
        for entry in entries:
            names.append(entry.name)
            try:
                entry.stat()
            except FileNotFoundError:
                pass
    check(names)


def come_and_go(random):
    names = [f"churn-{threading.get_ident()}-{i}" for i in range(random.randrange(1, 300))]
    for name in names:
        touch(gone_on, name)
    random.shuffle(names)
    for name in names:
        os.unlink(os.path.join(gone_on, name))


def marked(random):
    name = f"mark-{threading.get_ident()}-{random.randrange(1 << 30)}"
    touch(gone_on, name)
    check(os.listdir(gone_on), present=[name])
    moved = "moved-" + name
    os.rename(os.path.join(gone_on, name), os.path.join(gone_on, moved))
    check(os.listdir(gone_on), present=[moved], absent=[name])
    os.unlink(os.path.join(gone_on, moved))
    check(os.listdir(gone_on), absent=[name, moved])


def remove_all(random):
    top = os.path.join(root, f"tree-{threading.get_ident()}")
    for folder in range(random.randrange(1, 4)):
        below = os.path.join(top, str(folder))
        os.makedirs(below)
        for i in range(random.choice((3, 50, 300, 1000))):
            touch(below, f"file-{i}" + "y" * random.randrange(40))
    if random.randrange(2):
        subprocess.run(["rm", "-rf", top], check=True)
    else:
        shutil.rmtree(top)
    assert not os.path.exists(top)


def loop(work, number):
    r = random.Random(f"{seed} {number}")
    while not wrong:
        try:
            work(r)
        except BaseException as error:
            wrong.append(f"{work.__name__}: {error!r}")
        counts[work.__name__] += 1
        if time.monotonic() > until:
            return


os.mkdir(gone_on)
for name in stable:
    touch(gone_on, name)
print("ready", flush=True)
until = time.monotonic() + seconds
work = (whole, whole, slowly, with_attributes, come_and_go, come_and_go, marked, marked, remove_all)
threads = [threading.Thread(target=loop, args=(each, number)) for number, each in enumerate(work)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(counts), *wrong, sep="\\n", flush=True)
sys.exit(bool(wrong))
'''

LISTER = """
import os, select, sys, threading, time

ended = threading.Event()


def loop(slow):
    while not ended.is_set():
        with os.scandir(sys.argv[1]) as entries:
            for number, _ in enumerate(entries):
                if slow and number % 700 == 0:
                    time.sleep(0.001)


threads = [threading.Thread(target=loop, args=(slow,)) for slow in (False, True, True)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
"""
