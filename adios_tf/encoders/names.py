"""The encoders by name, with one line each for --list; `builders` builds them."""

BACKBONE_LINES = {
    "convnet_small": "four convolutions, made for a CPU; option width scales it",
    "resnet18": "ResNet-18 as in torchvision",
    "resnet34": "ResNet-34 as in torchvision",
    "resnet50": "ResNet-50 as in torchvision",
    "resnet18_v2": "ResNet-18 with pre-activation",
    "resnet34_v2": "ResNet-34 with pre-activation",
    "resnet50_v2": "ResNet-50 with pre-activation",
    "efficientnetv2_b0": "EfficientNetV2-B0, without stochastic depth",
    "efficientnetv2_b1": "EfficientNetV2-B1, without stochastic depth",
    "efficientnetv2_b2": "EfficientNetV2-B2, without stochastic depth",
    "efficientnetv2_b3": "EfficientNetV2-B3, without stochastic depth",
    "efficientnetv2_s": "EfficientNetV2-S, without stochastic depth",
    "mobilenetv3_small": "MobileNetV3 Small",
    "mobilenetv3_large": "MobileNetV3 Large",
    "densenet121": "DenseNet-121",
    "vit_tiny": "Vision Transformer, width 192; option patch",
    "vit_small": "Vision Transformer, width 384; option patch",
}
