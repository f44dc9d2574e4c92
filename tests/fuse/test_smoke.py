import os


def test_it(mnt):
    (mnt/"a").write_text("x")
    assert (mnt/"a").read_text()=="x"
    os.mkdir(mnt/"d"); assert sorted(os.listdir(mnt))==["a","d"]
    print(os.statvfs(mnt))
