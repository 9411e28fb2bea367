"""The programs of the device pages, checked as far as a machine without the device can.

Neither LCE's C++ headers nor its Android library are at hand here, so both are compiled against
stand-ins that declare just what the programs use, with the signatures of TensorFlow Lite 2.16. The
C++ stand-in also runs: its interpreter hands its input back, so the program's own work is tested,
on this machine's processor and, where Debian's cross compiler and QEMU are installed (packages
g++-aarch64-linux-gnu and qemu-user-static), as a 64-bit ARM program.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

DEVICE = Path(__file__).resolve().parents[1] / "docs" / "device"

TFLITE_STAND_IN = r"""
#pragma once
#include <cstddef>
#include <fstream>
#include <memory>
#include <vector>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
struct TfLiteTensor { size_t bytes; };
namespace tflite {
struct FlatBufferModel {
  static std::unique_ptr<FlatBufferModel> BuildFromFile(const char* name) {
    return std::ifstream(name) ? std::make_unique<FlatBufferModel>() : nullptr;
  }
};
struct OpResolver { bool has_lce = false; };
struct MutableOpResolver : OpResolver {};
namespace ops { namespace builtin { struct BuiltinOpResolver : MutableOpResolver {}; } }
class Interpreter {  // three outputs: the input's first three numbers
 public:
  TfLiteStatus SetNumThreads(int) { return kTfLiteOk; }
  TfLiteStatus AllocateTensors() { data_.resize(4); return kTfLiteOk; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  TfLiteTensor* input_tensor(size_t) { tensor_.bytes = 16; return &tensor_; }
  const TfLiteTensor* output_tensor(size_t) const { return &output_; }
  template <class T> T* typed_input_tensor(int) { return data_.data(); }
  template <class T> T* typed_output_tensor(int) { return data_.data(); }
 private:
  std::vector<float> data_;
  TfLiteTensor tensor_{16}, output_{12};
};
class InterpreterBuilder {
 public:
  InterpreterBuilder(const FlatBufferModel&, const OpResolver& ops) : ops_(ops) {}
  TfLiteStatus operator()(std::unique_ptr<Interpreter>* out) {
    if (!ops_.has_lce) return kTfLiteError;
    *out = std::make_unique<Interpreter>();
    return kTfLiteOk;
  }
 private:
  const OpResolver& ops_;
};
}  // namespace tflite
"""

LCE_STAND_IN = r"""
#pragma once
#include "tensorflow/lite/model.h"
namespace compute_engine { namespace tflite {
inline void RegisterLCECustomOps(::tflite::MutableOpResolver* resolver, const bool = false,
                                 const bool = false) {
  resolver->has_lce = true;
}
} }
"""

JAVA_STAND_IN = """
package org.tensorflow.lite;
public final class Interpreter implements AutoCloseable {
  public static class Options { public Options setNumThreads(int n) { return this; } }
  public Interpreter(java.nio.ByteBuffer model, Options options) {}
  public Tensor getInputTensor(int index) { return null; }
  public Tensor getOutputTensor(int index) { return null; }
  public void run(Object input, Object output) {}
  public void close() {}
}
"""
JAVA_TENSOR = "package org.tensorflow.lite; public interface Tensor { int[] shape(); }"


# Compiler, further flags, and what runs the program.
TARGETS = {
    "this machine": (["g++"], []),
    "64-bit ARM": (["aarch64-linux-gnu-g++", "-static"], ["qemu-aarch64-static"]),
}
ELF_MACHINE_AARCH64 = 183


@pytest.fixture(scope="module", params=TARGETS)
def classify(request, tmp_path_factory):
    """The program, as the words of a command, and the folder it runs in."""
    compiler, runner = TARGETS[request.param]
    missing = [tool for tool in (compiler[0], *runner) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here")
    folder = tmp_path_factory.mktemp("cc")
    for name in ("interpreter.h", "model.h", "kernels/register.h"):
        path = folder / "tensorflow" / "lite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        first = '#pragma once\n#include "tensorflow/lite/model.h"\n'
        path.write_text(TFLITE_STAND_IN if name == "model.h" else first)
    header = folder / "larq_compute_engine" / "tflite" / "kernels" / "lce_ops_register.h"
    header.parent.mkdir(parents=True)
    header.write_text(LCE_STAND_IN)
    program = folder / "classify"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(folder)]
    subprocess.run(
        [*compiler, *flags, str(DEVICE / "classify.cc"), "-o", str(program)],
        check=True,
        timeout=120,
    )
    if runner:
        machine = int.from_bytes(program.read_bytes()[18:20], "little")
        assert machine == ELF_MACHINE_AARCH64
    (folder / "net.tflite").write_bytes(b"net")
    return [*runner, str(program)], folder


def run(classify, *words):
    program, folder = classify
    return subprocess.run([*program, *words], capture_output=True, text=True, cwd=folder)


def test_the_cpp_program_feeds_the_image_and_prints_the_class(classify):
    np.array([0.5, 2.25, -1, 7], "<f4").tofile(classify[1] / "image.f32")
    done = run(classify, "net.tflite", "image.f32", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0.5", "2.25", "-1", "class 1"]


def test_the_cpp_program_names_what_is_wrong(classify):
    np.zeros(3, "<f4").tofile(classify[1] / "short.f32")
    for words, message in [
        (["net.tflite"], "usage: classify"),
        (["none.tflite", "short.f32"], "cannot read the network"),
        (["net.tflite", "none.f32"], "cannot read the image"),
        (["net.tflite", "short.f32"], "another size than the network takes"),
    ]:
        done = run(classify, *words)
        assert done.returncode == 1 and message in done.stderr


def test_the_java_class_compiles(tmp_path):
    if shutil.which("javac") is None:
        pytest.skip("no Java compiler here")
    package = tmp_path / "org" / "tensorflow" / "lite"
    package.mkdir(parents=True)
    (package / "Interpreter.java").write_text(JAVA_STAND_IN)
    (package / "Tensor.java").write_text(JAVA_TENSOR)
    source = DEVICE / "Classifier.java"
    done = subprocess.run(
        [*["javac", "-Xlint:all", "-Werror", "-sourcepath"], tmp_path, "-d", tmp_path, source],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "Classifier.class").exists()
