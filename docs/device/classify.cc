// Classify one image with a file made by hbnn_larq.edge.convert, on LCE's C++ interpreter.
//
//   classify NET.tflite IMAGE.f32 [THREADS]
//
// IMAGE.f32 holds the preprocessed image as raw little-endian floats, height x width x channels:
//   record.preprocessing(pixels).tofile("IMAGE.f32")      (Python, see docs/deploy_cpp.md)
// Prints the outputs, one a line, and the largest one's number last.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "larq_compute_engine/tflite/kernels/lce_ops_register.h"
#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model.h"

namespace {

int Fail(const char* what) {
  std::fprintf(stderr, "classify: %s\n", what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return Fail("usage: classify NET.tflite IMAGE.f32 [THREADS]");

  auto model = tflite::FlatBufferModel::BuildFromFile(argv[1]);
  if (model == nullptr) return Fail("cannot read the network");

  // The only line that differs from plain TensorFlow Lite.
  tflite::ops::builtin::BuiltinOpResolver resolver;
  compute_engine::tflite::RegisterLCECustomOps(&resolver);

  std::unique_ptr<tflite::Interpreter> interpreter;
  if (tflite::InterpreterBuilder(*model, resolver)(&interpreter) != kTfLiteOk) {
    return Fail("the network needs an op that this program does not have");
  }
  interpreter->SetNumThreads(argc > 3 ? std::atoi(argv[3]) : 1);
  if (interpreter->AllocateTensors() != kTfLiteOk) return Fail("cannot allocate tensors");

  std::ifstream file(argv[2], std::ios::binary);
  if (!file) return Fail("cannot read the image");
  std::vector<char> image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const TfLiteTensor* input = interpreter->input_tensor(0);
  if (image.size() != input->bytes) return Fail("the image has another size than the network takes");
  std::copy(image.begin(), image.end(),
            reinterpret_cast<char*>(interpreter->typed_input_tensor<float>(0)));

  if (interpreter->Invoke() != kTfLiteOk) return Fail("the network failed to run");

  const size_t classes = interpreter->output_tensor(0)->bytes / sizeof(float);
  const float* logits = interpreter->typed_output_tensor<float>(0);
  for (size_t k = 0; k < classes; ++k) std::printf("%.9g\n", logits[k]);
  std::printf("class %td\n", std::max_element(logits, logits + classes) - logits);
  return 0;
}
