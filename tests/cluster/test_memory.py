"""Clustering takes no more memory for more images, but for a few numbers a detection."""

import json
import subprocess
import sys

WORK = """
import json, re
import numpy as np
from uld.cluster import kmeans, spool, two_stage
from uld.cluster.quality import quality
from uld.landmarks import label

EACH, SIZE, CAP, K = 30, 128, 10_000, 10
spool.PIECE = 2**13

def cluster(images):
    rng = np.random.default_rng(0)
    descriptors = spool.Spool()
    for _ in range(0, images, 100):
        x = rng.normal(size=(100 * EACH, SIZE)).astype(np.float32)
        descriptors.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    count = images * EACH
    image, flipped = np.repeat(np.arange(images), EACH), np.zeros(count, bool)
    points = label.Pool(image, flipped, np.zeros((count, 2), np.float32), descriptors)
    clusters = kmeans.fit(descriptors, K, rng, restarts=1, iterations=3, cap=CAP)
    quality(descriptors, clusters, rng)
    label.picture(points, clusters.centroids, rng)
    kept, own = label.closest(points, clusters.centroids)
    label.of_pool(kept, own, clusters.centroids)
    pose = image % 2
    two_stage.keypoint_clusters(descriptors, pose, points.xy, clusters.centroids, 2, iterations=2, prior=1)
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

print(json.dumps([cluster(images) for images in (1_000, 13_000)]))
"""
DETECTIONS, DESCRIPTOR = 12_000 * 30, 4 * 128  # more in the larger run; bytes of one
TABLES = 100  # bytes a detection: docs/scale.md


def test_memory_does_not_grow_with_the_images() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WORK], check=True, capture_output=True, text=True)
    few, many = json.loads(done.stdout)
    assert many - few < TABLES * DETECTIONS < DESCRIPTOR * DETECTIONS / 5
