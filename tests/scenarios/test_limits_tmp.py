import time
def test_it(system):
    for n in (50, 200, 250, 300, 500):
        t=time.monotonic()
        try:
            with system.crowd(n, apis=1) as c:
                print(n, "opened", time.monotonic()-t)
        except AssertionError as e:
            print(n, "failed", e, time.monotonic()-t)
