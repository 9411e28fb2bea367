import java.io.Closeable;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.tensorflow.lite.Interpreter;

/**
 * Classifies images with a file made by hbnn_larq.edge.convert.
 *
 * <p>Built against LCE's AAR (lce-lite), whose Interpreter knows the binary ops; the stock
 * TensorFlow Lite library has the same class and does not. Scale, mean and std are those of
 * hbnn.json inside the .tflite: `unzip -p net.tflite hbnn.json`.
 */
public final class Classifier implements Closeable {
  private final Interpreter interpreter;
  private final int[] inputShape;
  private final int classes;
  private final float scale;
  private final float[] mean;
  private final float[] std;

  public Classifier(ByteBuffer tflite, int threads, float scale, float[] mean, float[] std) {
    Interpreter.Options options = new Interpreter.Options();
    options.setNumThreads(threads);
    this.interpreter = new Interpreter(tflite, options);
    this.inputShape = interpreter.getInputTensor(0).shape(); // {1, height, width, channels}
    this.classes = interpreter.getOutputTensor(0).shape()[1];
    this.scale = scale;
    this.mean = mean;
    this.std = std;
  }

  /** Outputs for pixels 0 to 255 in rows, channels last, of the size that the network takes. */
  public float[] logits(byte[] pixels) {
    int channels = inputShape[3];
    if (pixels.length != inputShape[1] * inputShape[2] * channels) {
      throw new IllegalArgumentException(
          "got " + pixels.length + " bytes for an image of " + inputShape[1] + " x "
              + inputShape[2] + " x " + channels);
    }
    ByteBuffer image = ByteBuffer.allocateDirect(4 * pixels.length).order(ByteOrder.nativeOrder());
    for (int i = 0; i < pixels.length; i++) {
      int c = i % channels;
      float value = (pixels[i] & 0xff) * scale;
      image.putFloat((value - mean[c % mean.length]) / std[c % std.length]);
    }
    image.rewind();
    float[][] output = new float[1][classes];
    interpreter.run(image, output);
    return output[0];
  }

  @Override
  public void close() {
    interpreter.close();
  }
}
