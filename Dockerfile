# missmod in a container:
#
#     docker build -t missmod:cuda .
#     docker build -t missmod:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#     docker run --rm --gpus all --shm-size 8g -v "$PWD:/data" missmod:cuda predict -i in -o out -d 137 ...
#     docker run --rm --gpus all --shm-size 8g -v "$PWD:/data" missmod:cuda run nnUNetv2_train 137 3d_fullres 0 -tr DCSegTrainer
#
# The folder that is mounted holds nnUNet_raw, nnUNet_preprocessed and nnUNet_results. PyTorch's own index has wheels
# without CUDA, which make the image several gigabytes smaller.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH_INDEX=
COPY . /src
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX"; fi \
    && pip install --no-cache-dir /src \
    && rm -r /src
ENV nnUNet_raw=/data/nnUNet_raw nnUNet_preprocessed=/data/nnUNet_preprocessed nnUNet_results=/data/nnUNet_results
WORKDIR /data
ENTRYPOINT ["missmod"]
CMD ["doctor"]
