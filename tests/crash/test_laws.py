"""The laws themselves: each is broken once, and says so."""

from __future__ import annotations

import xxhash

from fetchverify.core.blocks import BLOCK_SIZE, Tiling, encode_header, encode_record
from tests.crash import laws
from tests.crash.model import Dir, File, Link, Tree, seal

COMMIT, EARLIER, ROOT = "c" * 40, "e" * 40, "cache/models--org--m"
FILES = {"config.json": b"{}", "sub/w.bin": b"weights"}
PROMISE = laws.Promise(commit=COMMIT, files=FILES, lfs=frozenset({"sub/w.bin"}))
BLOBS = {path: f"{ROOT}/blobs/{PROMISE.digest(path).hex}" for path in FILES}


def file(data: bytes, *, mtime_ns: int = 0) -> File:
    return File(lambda: data, mtime_ns=mtime_ns)


def cache(**changes: File | Link | Dir | None) -> Tree:
    """Return a right cache with some paths (below the repo's folder) changed, None removes one."""
    right: dict[str, File | Link | Dir] = {
        **{BLOBS[path]: file(data) for path, data in FILES.items()},
        f"{ROOT}/snapshots/{COMMIT}": Dir(),
        f"{ROOT}/snapshots/{COMMIT}/config.json": Link(f"../../blobs/{PROMISE.digest('config.json').hex}"),
        f"{ROOT}/snapshots/{COMMIT}/sub": Dir(),
        f"{ROOT}/snapshots/{COMMIT}/sub/w.bin": Link(f"../../../blobs/{PROMISE.digest('sub/w.bin').hex}"),
        f"{ROOT}/trees/{COMMIT}.json": file(b"{}"),
        f"{ROOT}/refs/main": file(COMMIT.encode()),
    }
    changed = right | {path: node for path, node in changes.items() if node is not None}
    return {path: node for path, node in changed.items() if changes.get(path, node) is not None}


def misled(tree: Tree, promise: laws.Promise = PROMISE) -> list[str]:
    return laws.cache_problems(tree, ROOT, promise)


def test_a_right_cache_and_none_at_all_mislead_nobody() -> None:
    assert [] == misled(cache()) == misled({})
    assert [] == laws.missing_from_cache(cache(), ROOT, PROMISE)
    assert 3 == len(laws.missing_from_cache({}, ROOT, PROMISE))


def test_a_blob_of_other_bytes_is_seen_and_counted() -> None:
    tree = cache(**{BLOBS["sub/w.bin"]: file(b"weighty")})
    assert 2 == len(misled(tree)), "by its name, and through the link"
    assert 7 == laws.unproved_bytes(tree) == laws.newly_unproved_bytes(tree, PROMISE, None)


def test_bytes_that_lay_there_before_are_excused() -> None:
    bad, name = frozenset([seal(b"weighty")]), PROMISE.digest("sub/w.bin").hex
    before = {f"blobs/{name}": bad, f"snapshots/{COMMIT}/sub/w.bin": bad}
    promise = laws.Promise(commit=COMMIT, files=FILES, lfs=PROMISE.lfs, before=before)
    tree = cache(**{BLOBS["sub/w.bin"]: file(b"weighty")})
    assert ([], 0) == (misled(tree, promise), laws.newly_unproved_bytes(tree, promise, None))
    assert [] == misled(cache(**{f"{ROOT}/snapshots/{COMMIT}/sub/w.bin": None}), promise)


def test_a_link_without_its_blob_is_seen() -> None:
    assert ["link " + f"{COMMIT}/config.json leads nowhere"] == misled(cache(**{BLOBS["config.json"]: None}))


def test_a_ref_before_its_snapshot_is_seen() -> None:
    assert 1 == len(misled(cache(**{f"{ROOT}/snapshots/{COMMIT}/config.json": None})))
    assert 1 == len(misled(cache(**{f"{ROOT}/refs/main": file(EARLIER.encode())})))
    assert 1 == len(misled(cache(**{f"{ROOT}/refs/main": file(b"")})))


def test_a_snapshot_without_its_listing_is_seen() -> None:
    assert 1 == len(misled(cache(**{f"{ROOT}/trees/{COMMIT}.json": None})))
    assert 1 == len(misled(cache(**{f"{ROOT}/trees/{COMMIT}.json": file(b'{"fil')})))


def test_in_a_folder_a_file_is_absent_or_right_and_so_are_the_notes_on_it() -> None:
    note = f"here/{laws.LISTING}/config.json.metadata"
    right = f"{COMMIT}\n{PROMISE.digest('config.json').hex}\n5.0\n".encode()
    wrong = f"{COMMIT}\n{PROMISE.digest('sub/w.bin').hex}\n5.0\n".encode()

    def problems(data: bytes, metadata: bytes, mtime_ns: int = 0) -> int:
        tree: Tree = {"here/config.json": file(data, mtime_ns=mtime_ns), note: file(metadata)}
        return len(laws.folder_problems(tree, "here", PROMISE))

    assert [] == laws.folder_problems({}, "here", PROMISE)
    assert (0, 0, 0) == (problems(b"{}", right), problems(b"{}", b"torn"), problems(b"{}", bytes(20)))
    assert 2 == problems(b"{", right)
    assert 1 == problems(b"{}", wrong)
    assert 0 == problems(b"{}", wrong, mtime_ns=10**10), "the hub distrusts a note that is older than its file"
    assert 2 == len(laws.missing_from_folder({}, "here", PROMISE))


def test_only_a_vouched_for_block_with_its_bytes_is_spared() -> None:
    data = bytes(range(256)) * (2 * BLOCK_SIZE // 256) + b"rest"
    promise = laws.Promise(commit=COMMIT, files={"w.bin": data}, lfs=frozenset({"w.bin"}))
    tiling, key = Tiling(size=len(data)), promise.digest("w.bin").key
    records = [
        encode_record(
            tiling, key, index, xxhash.xxh3_128_digest(data[tiling.block(index).start : tiling.block(index).stop])
        )
        for index in range(2)
    ]
    journal = encode_header(tiling, key) + b"".join(records)
    kept = data[:BLOCK_SIZE] + bytes(BLOCK_SIZE) + b"rest"  # the second block lost its bytes

    def owed(kept: bytes, journal: bytes) -> int:
        folder = f"a/partial/{key}"
        return laws.still_to_fetch(
            {f"{folder}/data": file(kept), f"{folder}/journal": file(journal)}, "a", promise, "w.bin"
        )

    assert BLOCK_SIZE + 4 == owed(kept, journal)
    assert 4 == owed(data, journal)
    assert len(data) == owed(kept[:-1], journal) == owed(kept, b"") == laws.still_to_fetch({}, "a", promise, "w.bin")
